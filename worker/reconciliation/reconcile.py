"""One attempt after the other at what is to be asked, and what follows where it fails."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from typing import Final

import structlog

from receiver.database.engine import TROUBLE
from worker.outbox import backoff
from worker.outbox.call_budgets import RATE_LIMIT_PAUSE, OutOfBudget
from worker.outbox.leases import LeaseLost
from worker.outbox.planner import Planner
from worker.providers.errors import AccountSuspended, ProviderError, RateLimited, Unauthorized
from worker.reconciliation import claim as claims
from worker.reconciliation import history, open_orders, subscriptions
from worker.reconciliation.claim import Next, Record, Task
from worker.runtime.runtime import Runtime
from worker.schema.states import HISTORY, ORDER, SUBSCRIPTIONS

_LONGEST_PAUSE = timedelta(minutes=5)
# Errors that a person at the provider's dashboard can mend.
_MENDABLE = (Unauthorized, AccountSuspended)
_ASK: Final[Mapping[str, Callable[[Task], Record]]] = {
    ORDER: open_orders.ask,
    HISTORY: history.read,
    SUBSCRIPTIONS: subscriptions.look,
}
_log = structlog.get_logger(__name__)


def reconcile(runtime: Runtime, ids: Sequence[str]) -> None:
    """Ask about those of the rows ``ids`` that are due, affordable and in nobody's hand."""
    for row_id in ids:
        task = claims.take(runtime, row_id)
        if task is None:
            continue
        try:
            write = _attempt(task)
        except LeaseLost as lost:
            _log.warning("reconciliation.lease_lost", reconciliation_id=row_id, reason=str(lost))
            continue
        except TROUBLE:
            raise
        except Exception as error:  # noqa: BLE001 - a bug here must not stop the others
            _log.exception("reconciliation.broke", reconciliation_id=task.row.id)
            write = _failed(task, f"it broke: {type(error).__name__}", _LONGEST_PAUSE)
        claims.record(task, write)


def _attempt(task: Task) -> Record:
    if task.claimed.given_up_calling:
        reason = f"{task.claimed.vanished} processes died while asking"
        return _failed(task, reason, _LONGEST_PAUSE, vanished=0)
    try:
        return _ASK[task.row.action](task)
    except OutOfBudget as spent:
        until = spent.until
        return lambda planner: Next(again=max(until - planner.now, timedelta(0)))
    except RateLimited as error:
        stay_away = timedelta(seconds=error.retry_after or RATE_LIMIT_PAUSE)
        return _failed(task, str(error), stay_away, block=stay_away)
    except ProviderError as error:
        return _failed(task, str(error), _pause_after(task, error))


def _pause_after(task: Task, error: ProviderError) -> timedelta:
    if isinstance(error, _MENDABLE):
        return _LONGEST_PAUSE
    if error.retry_after:
        return timedelta(seconds=error.retry_after)
    return min(backoff.after(task.row.failures + 1), _LONGEST_PAUSE)


def _failed(
    task: Task,
    reason: str,
    pause: timedelta,
    *,
    block: timedelta | None = None,
    **values: object,
) -> Record:
    """Nothing was learnt: again after ``pause``, unless the order has been over for too long."""

    def write(planner: Planner) -> Next:
        again = None if open_orders.too_late(task.row.deadline, planner.now) else pause
        written = {"failures": task.row.failures + 1, "error": reason, **values}
        return Next(again=again, values=written, block=block)

    return write
