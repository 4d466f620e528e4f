"""Settling a code with its provider: the part that confirming and verifying have in common.

One row at a time: its call is paid for and claimed in one short transaction, made outside of any,
and recorded in another. Whatever happened, the row says when it is next due, or how it ended.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import structlog
from sqlalchemy import update
from sqlmodel import Session

from receiver.database import persist
from receiver.failpoints import reach
from worker import backoff, budgets, leases
from worker.followups import Planner
from worker.leases import MARGIN, Claim, LeaseLost
from worker.models import DEAD, PENDING, SENDING, UNKNOWN, Confirmation, table_of
from worker.outside import Api
from worker.providers.errors import ProviderError, RateLimited
from worker.runtime import Runtime

CALL_SECONDS = 7.0
LEASE = timedelta(seconds=CALL_SECONDS) + MARGIN
MOST_ATTEMPTS = 15
RATE_LIMIT_PAUSE = 10.0
_TABLE = table_of(Confirmation)
_log = structlog.get_logger(__name__)

Record = Callable[[Planner], None]


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one attempt ended.

    ``state`` is the end state, or None to be tried again after ``again``; ``record`` writes
    what else follows, in the transaction that ends the row.
    """

    state: str | None
    error: str | None = None
    again: timedelta | None = None
    unsure: bool = False
    block: timedelta | None = None
    record: Record = field(default=lambda _: None)


class OutOfBudget(Exception):
    """The call may not be made yet; ``until`` says when it may."""

    def __init__(self, until: datetime) -> None:
        super().__init__("the budget is spent")
        self.until = until


@dataclass(frozen=True, slots=True)
class Task:
    """One row in hand, and the provider it is about."""

    runtime: Runtime
    api: Api
    budget: str
    row: Confirmation
    claimed: Claim

    def pay_again(self) -> None:
        """Pay for one more call of this attempt, and keep the row in hand for it.

        Raises:
            OutOfBudget: it cannot be paid now.
            LeaseLost: the row is no longer in this hand.
        """
        with self.runtime.database.transaction() as session:
            now = self.runtime.database.now(session)
            key = budget_key(self.row.provider, self.budget)
            budget = budgets.lock(session, key)
            until = budgets.available_at(budget, self.api.limit(self.budget), now)
            if until > now:
                raise OutOfBudget(until)
            budgets.debit(budget, now)
            leases.renew(session, _TABLE, self.claimed, now=now, lease=LEASE)


def budget_key(provider: str, budget: str) -> str:
    """The row of the budget for a class of a provider's calls."""
    return f"{provider}:{budget}"


def take(runtime: Runtime, row_id: str, call_of: Mapping[str, str]) -> Task | None:
    """Pay for a call about the row and claim it; None if it is in hand, over, or unaffordable."""
    with runtime.database.transaction() as session:
        row = session.get(Confirmation, row_id)
        if row is None:
            return None
        now = runtime.database.now(session)
        api = runtime.outside.apis.get(row.provider)
        if api is None:
            _put_off(session, row_id, now + timedelta(seconds=60))
            return None
        budget_class = api.budget_of(call_of[row.action])
        budget = budgets.lock(session, budget_key(row.provider, budget_class))
        until = budgets.available_at(budget, api.limit(budget_class), now)
        if until > now:
            _put_off(session, row_id, until)
            return None
        asked_since = row.asked_since or now
        won = leases.claim(
            session, _TABLE, [row_id], now=now, lease=LEASE, state=SENDING, asked_since=asked_since
        )
        if not won:
            return None
        budgets.debit(budget, now)
        session.refresh(row)
        session.expunge(row)
        return Task(runtime, api, budget_class, row, won[0])


def record(task: Task, outcome: Outcome) -> None:
    """Write how an attempt ended, unless the row was lost to somebody else meanwhile."""
    row = task.row
    try:
        planner = persist(lambda: _write(task, outcome))
    except LeaseLost as lost:
        _log.warning("confirmation.lease_lost", confirmation_id=row.id, reason=str(lost))
        return
    reach("confirmations.after_record")
    planner.wake(task.runtime.waker)
    log: Callable[..., Any] = _log.info if outcome.error is None else _log.warning
    log(
        "confirmation.attempted",
        confirmation_id=row.id,
        event_id=row.event_id,
        action=row.action,
        state=outcome.state or PENDING,
        attempt=task.claimed.attempt,
        reason=outcome.error,
    )


def _write(task: Task, outcome: Outcome) -> Planner:
    runtime, row = task.runtime, task.row
    with runtime.database.transaction() as session:
        now = runtime.database.now(session)
        planner = Planner(session, now)
        if outcome.block is not None:
            budgets.block(session, budget_key(row.provider, task.budget), now + outcome.block)
        if outcome.state is None:
            again = outcome.again or backoff.after(task.claimed.attempt)
            leases.postpone(
                session, _TABLE, task.claimed, now + again,
                state=PENDING, error=outcome.error, unsure=outcome.unsure,
            )  # fmt: skip
            return planner
        # In the sequence in which events are handled: the order first, then this row.
        outcome.record(planner)
        leases.finish(
            session, _TABLE, task.claimed, state=outcome.state, error=outcome.error, done_at=now
        )
        if outcome.state in {DEAD, UNKNOWN}:
            planner.notice(
                runtime.policy.routing.operators(),
                "unsettled",
                event_id=row.event_id,
                detail=f"Order {row.order_id} of {row.provider}: could not {row.action} it: "
                f"{outcome.error}. Look: codecatch orders show {row.order_id}; then: "
                f"codecatch events replay {row.event_id}",
            )
        return planner


def after_error(task: Task, error: ProviderError, *, unsure: bool) -> Outcome:
    """What follows from an error that no rule of its own covers."""
    reason = str(error)
    if isinstance(error, RateLimited):
        pause = timedelta(seconds=error.retry_after or RATE_LIMIT_PAUSE)
        return Outcome(None, reason, again=pause, block=pause, unsure=unsure)
    unsure = unsure or error.unknown
    if error.permanent:
        return Outcome(DEAD, reason)
    if task.claimed.attempt >= MOST_ATTEMPTS:
        return Outcome(UNKNOWN if unsure else DEAD, f"{reason}; given up")
    again = timedelta(seconds=error.retry_after) if error.retry_after else None
    return Outcome(None, reason, again=again, unsure=unsure)


def _put_off(session: Session, row_id: str, until: datetime) -> None:
    """Nobody's row, not before ``until``: the sweep need not look at it until then."""
    statement = (
        update(_TABLE)
        .where(_TABLE.c.id == row_id, _TABLE.c.lease_until.is_(None), _TABLE.c.wake_at.is_not(None))
        .values(wake_at=until)
    )
    session.connection().execute(statement)
