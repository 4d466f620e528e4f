"""The tasks: each takes ids, calls one function and returns nothing."""

from __future__ import annotations

from celery import shared_task

from receiver import heartbeats, queue
from worker import confirmations, deliveries, handling, retention
from worker import sweep as sweeping
from worker.reconciliation import asking, plans
from worker.runtime import process


@shared_task(name=queue.HANDLE_EVENTS)
def handle_events(ids: list[str]) -> None:
    """Turn stored events into orders, codes and follow-ups."""
    handling.handle(process.get(), ids)


@shared_task(name=queue.CONFIRM_ORDERS)
def confirm_orders(ids: list[str]) -> None:
    """Settle codes with their providers."""
    confirmations.settle(process.get(), ids)


@shared_task(name=queue.DELIVER)
def deliver(ids: list[str]) -> None:
    """Tell destinations."""
    deliveries.deliver(process.get(), ids)


@shared_task(name=queue.RECONCILE)
def reconcile(ids: list[str]) -> None:
    """Ask providers what they know and we do not."""
    asking.reconcile(process.get(), ids)


@shared_task(name=queue.WATCH)
def watch() -> None:
    """See to it that every open order is asked for."""
    plans.plan(process.get())


@shared_task(name=queue.SWEEP)
def sweep() -> None:
    """Wake what is due."""
    runtime = process.get()
    sweeping.sweep(runtime.database, runtime.waker)


@shared_task(name=queue.PURGE)
def purge() -> None:
    """Take out what has been kept for as long as it may be."""
    runtime = process.get()
    retention.purge(runtime.database, runtime.retention)


@shared_task(name=queue.PULSE)
def pulse() -> None:
    """Show that the sender is alive."""
    runtime = process.get()
    with runtime.database.transaction() as session:
        heartbeats.beat(session, "sender", runtime.database.now(session))
