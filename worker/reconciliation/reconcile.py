"""Makes one attempt after the other, and decides what follows a failed one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from typing import Final

import structlog

from receiver.database.trouble import is_trouble
from worker.outbox import backoff
from worker.outbox.call_budgets import OutOfBudget
from worker.outbox.leases import LeaseLost
from worker.outbox.planner import Planner
from worker.providers.errors import AccountSuspended, ProviderError, RateLimited, Unauthorized
from worker.reconciliation import claim as claims
from worker.reconciliation import history, open_orders, subscriptions
from worker.reconciliation.claim import AttemptResult, Task, WriteResult
from worker.runtime.runtime import Runtime
from worker.schema.states import HISTORY, ORDER, SUBSCRIPTIONS

_LONGEST_DELAY = timedelta(minutes=5)
# Errors that an operator can fix in the provider's dashboard.
_FIXABLE = (Unauthorized, AccountSuspended)
_ACTIONS: Final[Mapping[str, Callable[[Task], WriteResult]]] = {
    ORDER: open_orders.poll,
    HISTORY: history.read,
    SUBSCRIPTIONS: subscriptions.check,
}
_log = structlog.get_logger(__name__)


def reconcile(runtime: Runtime, ids: Sequence[str]) -> None:
    """Make an attempt for each of the rows ``ids`` that is due, not leased, and allowed a call."""
    for row_id in ids:
        task = claims.claim(runtime, row_id)
        if task is None:
            continue
        try:
            write = _attempt(task)
        except LeaseLost as lost:
            _log.warning("reconciliation.lease_lost", reconciliation_id=row_id, reason=str(lost))
            continue
        except Exception as error:
            if is_trouble(error):
                raise
            _log.exception("reconciliation.attempt_failed", reconciliation_id=task.row.id)
            write = _failed(task, f"internal error: {type(error).__name__}", _LONGEST_DELAY)
        claims.record(task, write)


def _attempt(task: Task) -> WriteResult:
    if task.claim.is_poison_among_calls:
        reason = f"{task.claim.vanished} processes died while asking the provider"
        return _failed(task, reason, _LONGEST_DELAY, vanished=0)
    try:
        return _ACTIONS[task.row.action](task)
    except OutOfBudget as spent:
        until = spent.until
        return lambda planner: AttemptResult(delay=max(until - planner.now, timedelta(0)))
    except RateLimited as error:
        return _failed(task, str(error), error.pause, block=error.pause)
    except ProviderError as error:
        return _failed(task, str(error), _delay_after(task, error))


def _delay_after(task: Task, error: ProviderError) -> timedelta:
    if isinstance(error, _FIXABLE):
        return _LONGEST_DELAY
    if error.retry_after:
        return timedelta(seconds=error.retry_after)
    return min(backoff.after(task.row.failures + 1), _LONGEST_DELAY)


def _failed(
    task: Task,
    reason: str,
    delay: timedelta,
    *,
    block: timedelta | None = None,
    **values: object,
) -> WriteResult:
    """A failed attempt: retry after ``delay``, unless the order ended too long ago."""

    def write(planner: Planner) -> AttemptResult:
        given_up = open_orders.is_given_up(task.row.deadline, planner.now)
        written = {"failures": task.row.failures + 1, "error": reason, **values}
        return AttemptResult(delay=None if given_up else delay, values=written, block=block)

    return write
