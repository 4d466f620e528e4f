"""The tasks: each takes ids, calls one function and returns nothing."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import structlog
from celery import shared_task, signals

from receiver import queue
from receiver.database import heartbeats
from receiver.database.engine import TROUBLE, kind_of
from worker.confirmation import confirm as confirmation
from worker.delivery import deliver as delivery
from worker.delivery.sender_pool import SenderPool
from worker.handling import handle as handling
from worker.maintenance import retention
from worker.outbox import sweep as sweeping
from worker.reconciliation import reconcile as reconciling
from worker.reconciliation import schedule
from worker.runtime.runtime import process

# The threads by which this process sends; they start with the first delivery.
senders = SenderPool()
_log = structlog.get_logger(__name__)
_Work = Callable[..., None]


def _task(name: str) -> Callable[[_Work], Any]:
    """Make a task of a function; what a database in trouble leaves undone, the sweep wakes again.

    That is one line in the log: a traceback for each message of an outage would fill the disk.
    """

    def register(work: _Work) -> Any:
        @shared_task(name=name)
        @wraps(work)
        def task(*args: Any) -> None:
            try:
                work(*args)
            except TROUBLE as error:
                _log.warning("task.database_away", task=name, error=kind_of(error))

        return task

    return register


@_task(queue.HANDLE_EVENTS)
def handle_events(ids: list[str]) -> None:
    """Turn stored events into orders, codes and follow-ups."""
    handling.handle(process.get(), ids)


@_task(queue.CONFIRM_ORDERS)
def confirm_orders(ids: list[str]) -> None:
    """Settle codes with their providers."""
    confirmation.settle(process.get(), ids)


@_task(queue.DELIVER)
def deliver(ids: list[str]) -> None:
    """Tell destinations."""
    delivery.deliver(process.get(), ids, senders)


@_task(queue.RECONCILE)
def reconcile(ids: list[str]) -> None:
    """Ask providers what they know and we do not."""
    reconciling.reconcile(process.get(), ids)


@_task(queue.WATCH)
def watch() -> None:
    """See to it that every open order is asked for."""
    schedule.plan(process.get())


@_task(queue.SWEEP)
def sweep() -> None:
    """Wake what is due."""
    runtime = process.get()
    sweeping.sweep(runtime.database, runtime.waker)


@_task(queue.PURGE)
def purge() -> None:
    """Take out what has been kept for as long as it may be."""
    runtime = process.get()
    retention.purge(runtime.database, runtime.retention)


@_task(queue.PULSE)
def pulse() -> None:
    """Show that the sender is alive."""
    runtime = process.get()
    with runtime.database.transaction() as session:
        heartbeats.beat(session, "sender", runtime.database.now(session))


@signals.worker_shutdown.connect
def _close(**_: Any) -> None:
    senders.close()
