"""Limits on calls, as rows: right for any number of processes, whatever becomes of the broker.

A budget counts the calls of each second of its window, so that no window of that length ever
holds more calls than allowed, wherever it begins. It is debited in the transaction that claims
the work, under a lock on its row.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Final

from sqlalchemy import String, bindparam
from sqlmodel import Session, col, select

from receiver.database.engine import insert_once
from worker.schema.models import Budget, table_of

# Calls are debited before they travel, and do not all travel equally fast.
_TRAVEL = timedelta(seconds=2)
# How long a key is left alone after a 429 that does not say how long, in seconds.
RATE_LIMIT_PAUSE: Final = 10.0
WINDOW = timedelta(seconds=60) + _TRAVEL
_BUDGETS = table_of(Budget)
# Built once, since to build a statement costs more than to run it.
_LOCKED: Final = (
    select(Budget).where(col(Budget.key) == bindparam("budget", type_=String)).with_for_update()
)


class OutOfBudget(Exception):
    """The call may not be made yet; ``until`` says when it may."""

    def __init__(self, until: datetime) -> None:
        super().__init__("the budget is spent")
        self.until = until


def budget_key(provider: str, budget: str) -> str:
    """The row of the budget for a class of a provider's calls."""
    return f"{provider}:{budget}"


def lock(session: Session, key: str) -> Budget:
    """The budget ``key``, held by this transaction until it ends."""
    row = session.exec(_LOCKED, params={"budget": key}).first()
    if row is None:
        insert_once(session, _BUDGETS, {"key": key, "spent": "[]"})
        row = session.exec(_LOCKED, params={"budget": key}).one()
    return row


def available_at(budget: Budget, limit: int, now: datetime, *, ahead: int = 0) -> datetime:
    """When the next call may be made, ``ahead`` others before it: ``now``, or a later time."""
    windows, places = divmod(ahead, limit)
    return _room_at(budget, limit - places, now) + windows * WINDOW


def room(budget: Budget, limit: int, now: datetime) -> int:
    """How many calls may be made now."""
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
            # Once the calls of this second are out of the window, there is room again.
            return datetime.fromtimestamp(second + 1, UTC) + WINDOW
    return now


def debit(budget: Budget, now: datetime, calls: int = 1) -> None:
    """Count so many calls."""
    this_second = int(now.timestamp())
    spent = dict(_within_window(budget, now))
    spent[this_second] = spent.get(this_second, 0) + calls
    budget.spent = json.dumps(sorted(spent.items()))


def block(session: Session, key: str, until: datetime) -> None:
    """No call before ``until``: the other side asked for it."""
    budget = lock(session, key)
    if budget.blocked_until is None or budget.blocked_until < until:
        budget.blocked_until = until


def _within_window(budget: Budget, now: datetime) -> list[tuple[int, int]]:
    """The seconds that may still count, with their calls, oldest first."""
    window = WINDOW.total_seconds() + 1
    # A call from the future was counted by a clock that has been set back since.
    return [
        (second, calls)
        for second, calls in json.loads(budget.spent)
        if abs(now.timestamp() - second) < window
    ]
