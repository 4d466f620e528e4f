"""Call limits, as rows: they hold for any number of processes, whatever happens to the broker.

A budget counts the calls of each second of a sliding window, so no window of that length ever
holds more calls than allowed, wherever it begins. It is debited in the transaction that claims the
work, under a lock on its row.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Final

from sqlalchemy import String, bindparam
from sqlmodel import Session, col, select

from receiver.database.engine import Database, insert_once
from worker.schema.models import Budget, table_of

# A call is debited before it is sent, and calls take different times to reach the provider.
_LATENCY = timedelta(seconds=2)
WINDOW = timedelta(seconds=60) + _LATENCY
_BUDGETS = table_of(Budget)
_LOCKED: Final = (
    select(Budget).where(col(Budget.key) == bindparam("budget", type_=String)).with_for_update()
)


class OutOfBudget(Exception):
    """The call is not allowed yet; ``until`` is when it will be, in ``pause``."""

    def __init__(self, until: datetime, now: datetime) -> None:
        super().__init__("the call budget is used up")
        self.until = until
        self.pause = until - now


def budget_key(provider: str, budget: str) -> str:
    """The key of the budget row for one class of a provider's calls."""
    return f"{provider}:{budget}"


def lock(session: Session, key: str) -> Budget:
    """The budget ``key``, locked until the transaction ends; created if it does not exist."""
    row = session.exec(_LOCKED, params={"budget": key}).first()
    if row is None:
        insert_once(session, _BUDGETS, {"key": key, "spent": "[]"})
        row = session.exec(_LOCKED, params={"budget": key}).one()
    return row


def available_at(budget: Budget, limit: int, now: datetime, *, ahead: int = 0) -> datetime:
    """When the next call is allowed, after ``ahead`` queued ones: ``now``, or a later time."""
    windows, calls = divmod(ahead, limit)
    return _room_at(budget, limit - calls, now) + windows * WINDOW


def room(budget: Budget, limit: int, now: datetime) -> int:
    """How many calls are allowed now."""
    if budget.blocked_until is not None and budget.blocked_until > now:
        return 0
    return max(limit - sum(calls for _, calls in _within_window(budget, now)), 0)


def _room_at(budget: Budget, limit: int, now: datetime) -> datetime:
    if budget.blocked_until is not None and budget.blocked_until > now:
        return budget.blocked_until
    counted = 0
    for second, calls in reversed(_within_window(budget, now)):
        counted += calls
        if counted >= limit:
            # There is room again once the calls of this second have left the window.
            return datetime.fromtimestamp(second + 1, UTC) + WINDOW
    return now


def debit(budget: Budget, now: datetime, calls: int = 1) -> None:
    """Count ``calls`` against the budget."""
    this_second = int(now.timestamp())
    spent = dict(_within_window(budget, now))
    spent[this_second] = spent.get(this_second, 0) + calls
    budget.spent = json.dumps(sorted(spent.items()))


def pay(session: Session, database: Database, key: str, limit: int) -> datetime:
    """Debit one call and return the time. Roll back the transaction if the call is not made.

    Raises:
        OutOfBudget: the call is not allowed now.
    """
    budget = lock(session, key)
    now = database.now(session)  # after the lock, which may have taken time
    until = available_at(budget, limit, now)
    if until > now:
        raise OutOfBudget(until, now)
    debit(budget, now)
    return now


def block(session: Session, key: str, until: datetime) -> None:
    """Allow no call before ``until``, as the provider asked; never shortens an earlier block."""
    budget = lock(session, key)
    if budget.blocked_until is None or budget.blocked_until < until:
        budget.blocked_until = until


def _within_window(budget: Budget, now: datetime) -> list[tuple[int, int]]:
    """The seconds that may still count, with their calls, oldest first."""
    window = WINDOW.total_seconds() + 1
    # A call in the future was counted under a clock that has been set back since.
    return [
        (second, calls)
        for second, calls in json.loads(budget.spent)
        if abs(now.timestamp() - second) < window
    ]
