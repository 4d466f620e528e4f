"""The tasks: each takes ids, calls one function and returns nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from functools import wraps
from typing import Any

import structlog
from billiard.exceptions import SoftTimeLimitExceeded
from celery import shared_task
from sqlalchemy.exc import SQLAlchemyError

from receiver import queue
from receiver.database import heartbeats
from receiver.database.trouble import is_trouble, kind_of
from worker.confirmation import claim as confirmation_claim
from worker.confirmation.confirm import settle
from worker.delivery import deliver as delivery
from worker.delivery.sender_pool import SenderPool
from worker.handling.handle import handle
from worker.maintenance import retention, stored_numbers
from worker.outbox import clock_jumps
from worker.outbox.sweep import sweep as sweep_rows
from worker.reconciliation import claim as reconciliation_claim
from worker.reconciliation import schedule
from worker.reconciliation.reconcile import reconcile as reconcile_rows
from worker.runtime.runtime import Runtime, process
from worker.tasks.lanes import Lanes

# Calls to one provider for one purpose: rows of a task share their claims and records.
_CONFIRMING_THREADS, _RECONCILING_THREADS = 8, 2
# How long a process that stops waits for the messages in flight: an HTTP destination's deadline.
_STOP_SECONDS = 8.0
# Seconds for one pass over the phone numbers; the next tick continues.
_REWRITE_SECONDS = 10.0
_log = structlog.get_logger(__name__)
_Work = Callable[..., None]
_Rows = Callable[[Sequence[str]], None]


def _task(name: str) -> Callable[[_Work], Any]:
    """Register a function as a task that logs failures of the database, and the end of its time.

    It ends normally then; the sweep later wakes the rows that it leaves. One log line replaces the
    traceback: an outage produces one per message, which would fill the disk. While the schema does
    not fit, the task does nothing; without heartbeats, ``/readyz`` and ``doctor`` say that no
    worker runs.
    """

    def register(work: _Work) -> Any:
        @shared_task(name=name)
        @wraps(work)
        def task(*args: Any) -> None:
            try:
                if process.misfit() is None:
                    work(*args)
            except SoftTimeLimitExceeded:
                _log.warning("task.too_slow", task=name)
            except SQLAlchemyError as error:
                if not is_trouble(error):
                    raise
                _log_failure(name, error)

        return task

    return register


def _log_failure(task: str, error: BaseException) -> None:
    """Log one line about trouble of the database; a bug must show as a traceback."""
    if isinstance(error, SQLAlchemyError) and is_trouble(error):
        _log.warning("task.database_away", task=task, error=kind_of(error))
    else:
        _log.error("task.failed", task=task, exc_info=error)


def _in_threads(task: str, work: Callable[[Runtime, Sequence[str]], None]) -> _Rows:
    """The work of ``task`` for threads of its own: no exception leaves it."""

    def run(rows: Sequence[str]) -> None:
        try:
            work(process.get(), rows)
        except Exception as error:  # noqa: BLE001 - the thread goes on with other rows
            _log_failure(task, error)

    return run


# The threads of this process that wait for the network; each starts when it is first needed.
senders = SenderPool()
_confirming = Lanes(
    "confirm",
    _in_threads(queue.CONFIRM_ORDERS, settle),
    threads=_CONFIRMING_THREADS,
    batch=queue.IDS_PER_MESSAGE[queue.CONFIRM_ORDERS],
)
_reconciling = Lanes(
    "reconcile",
    _in_threads(queue.RECONCILE, reconcile_rows),
    threads=_RECONCILING_THREADS,
    batch=1,
)


@_task(queue.HANDLE_EVENTS)
def handle_events(ids: list[str]) -> None:
    """Process inbox events into orders, codes and follow-ups."""
    handle(process.get(), ids)


@_task(queue.CONFIRM_ORDERS)
def confirm_orders(ids: list[str]) -> None:
    """Confirm orders and verify codes with their providers."""
    for queued, rows in confirmation_claim.by_queue(process.get(), ids).items():
        _confirming.add(queued, rows)


@_task(queue.DELIVER)
def deliver(ids: list[str]) -> None:
    """Deliver notifications to destinations."""
    for dispatched in delivery.deliver(process.get(), ids, senders):
        dispatched.add_done_callback(_log_failed_dispatch)


def _log_failed_dispatch(dispatched: Future[None]) -> None:
    error = dispatched.exception()
    if error is not None:
        _log_failure(queue.DELIVER, error)


@_task(queue.RECONCILE)
def reconcile(ids: list[str]) -> None:
    """Find orders and codes that only the provider knows."""
    for provider, rows in reconciliation_claim.by_provider(process.get(), ids).items():
        _reconciling.add(provider, rows)


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
    database = runtime.database
    with database.reading() as session:
        is_steady = clock_jumps.is_steady(session, database.now(session))
    if is_steady:
        retention.purge(database, runtime.retention)
    else:
        _log.warning("retention.held", reason="the clock was set, or nothing ran for an hour")
    if stored_numbers.is_due(database):
        stored_numbers.rewrite(database, runtime.vault, seconds=_REWRITE_SECONDS)


@_task(queue.PULSE)
def pulse() -> None:
    """Write the sender's heartbeat."""
    runtime = process.get()
    with runtime.database.transaction() as session:
        heartbeats.beat(session, "sender", runtime.database.now(session))


def stop() -> None:
    """Start no more calls, and wait for the messages in flight, so that none is repeated."""
    _confirming.close()
    _reconciling.close()
    senders.close(_STOP_SECONDS)
