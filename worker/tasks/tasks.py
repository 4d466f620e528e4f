"""The tasks: each takes ids, calls one function and returns nothing."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import structlog
from celery import shared_task, signals
from sqlalchemy.exc import SQLAlchemyError

from receiver import queue
from receiver.database import heartbeats
from receiver.database.trouble import is_trouble, kind_of
from worker.confirmation.confirm import settle
from worker.delivery import deliver as delivery
from worker.delivery.sender_pool import SenderPool
from worker.handling.handle import handle
from worker.maintenance import retention, stored_numbers
from worker.outbox.sweep import sweep as sweep_rows
from worker.reconciliation import schedule
from worker.reconciliation.reconcile import reconcile as reconcile_rows
from worker.runtime.runtime import process

# The sender threads of this process; they start with the first delivery.
senders = SenderPool()
# Seconds for one pass over the phone numbers; the next tick continues.
_REWRITE_SECONDS = 10.0
_log = structlog.get_logger(__name__)
_Work = Callable[..., None]


def _task(name: str) -> Callable[[_Work], Any]:
    """Register a function as a task that logs database failures and ends normally.

    Nor does it do anything while the schema does not fit; without heartbeats, ``/readyz`` and
    ``doctor`` say that no worker runs.
    The sweep later wakes the rows that such a task leaves. One log line replaces the traceback:
    an outage produces one per message, which would fill the disk.
    """

    def register(work: _Work) -> Any:
        @shared_task(name=name)
        @wraps(work)
        def task(*args: Any) -> None:
            try:
                if process.misfit() is None:
                    work(*args)
            except SQLAlchemyError as error:
                if not is_trouble(error):
                    raise
                _log.warning("task.database_away", task=name, error=kind_of(error))

        return task

    return register


@_task(queue.HANDLE_EVENTS)
def handle_events(ids: list[str]) -> None:
    """Process inbox events into orders, codes and follow-ups."""
    handle(process.get(), ids)


@_task(queue.CONFIRM_ORDERS)
def confirm_orders(ids: list[str]) -> None:
    """Confirm orders and verify codes with their providers."""
    settle(process.get(), ids)


@_task(queue.DELIVER)
def deliver(ids: list[str]) -> None:
    """Deliver notifications to destinations."""
    delivery.deliver(process.get(), ids, senders)


@_task(queue.RECONCILE)
def reconcile(ids: list[str]) -> None:
    """Find orders and codes that only the provider knows."""
    reconcile_rows(process.get(), ids)


@_task(queue.WATCH)
def watch() -> None:
    """Schedule the reconciliation of every open order."""
    schedule.plan(process.get())


@_task(queue.SWEEP)
def sweep() -> None:
    """Wake the rows that are due."""
    runtime = process.get()
    sweep_rows(runtime.database, runtime.waker)


@_task(queue.PURGE)
def purge() -> None:
    """Erase what has reached the end of its retention period, and rewrite old phone numbers."""
    runtime = process.get()
    retention.purge(runtime.database, runtime.retention)
    if stored_numbers.is_due(runtime.database):
        stored_numbers.rewrite(runtime.database, runtime.vault, seconds=_REWRITE_SECONDS)


@_task(queue.PULSE)
def pulse() -> None:
    """Write the sender's heartbeat."""
    runtime = process.get()
    with runtime.database.transaction() as session:
        heartbeats.beat(session, "sender", runtime.database.now(session))


@signals.worker_shutdown.connect
def _close(**_: Any) -> None:
    senders.close()
