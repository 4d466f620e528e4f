"""Settling a code with its provider: the part that confirming and verifying have in common.

One row at a time: its call is paid for and claimed in one short transaction, made outside of any,
and recorded in another. Whatever happened, the row says when it is next due, or how it ended.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import structlog
from sqlalchemy import update
from sqlmodel import Session

from receiver.database import persist
from receiver.failpoints import reach
from worker import backoff, budgets, leases, turns
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
# A row far back in line looks again after this many windows at the latest: the line may be shorter.
_MOST_WINDOWS = 10
_TABLE = table_of(Confirmation)
_log = structlog.get_logger(__name__)

Record = Callable[[Planner], None]


def no_record(_: Planner) -> None:
    """Nothing follows."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one attempt ended.

    ``state`` is the end state, or None to be tried again after ``again``; ``record`` writes
    what else follows, in the transaction that lets go of the row.
    """

    state: str | None
    error: str | None = None
    again: timedelta | None = None
    unsure: bool = False
    block: timedelta | None = None
    record: Record = no_record


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
            budget = budgets.lock(session, budget_key(self.row.provider, self.budget))
            now = self.runtime.database.now(session)
            until = budgets.available_at(budget, self.api.limit(self.budget), now)
            if until > now:
                raise OutOfBudget(until)
            budgets.debit(budget, now)
            leases.renew(session, _TABLE, self.claimed, now=now, lease=LEASE)


def budget_key(provider: str, budget: str) -> str:
    """The row of the budget for a class of a provider's calls."""
    return f"{provider}:{budget}"


def take(runtime: Runtime, row_id: str, call_of: Mapping[str, str]) -> Task | None:
    """Pay for a call about the row, or about one whose turn it is before, and claim that.

    None if the row is in hand, over or not due, or if no call can be paid.
    """
    with runtime.database.transaction() as session:
        row = session.get(Confirmation, row_id)
        if row is None or not turns.is_waiting(session, row, runtime.database.now(session)):
            return None
        api = runtime.outside.apis.get(row.provider)
        if api is None:
            _put_off(session, row, runtime.database.now(session) + timedelta(seconds=60))
            return None
        budget_class = api.budget_of(call_of[row.action])
        budget = budgets.lock(session, budget_key(row.provider, budget_class))
        now = runtime.database.now(session)  # a call is counted when it is made: not before a wait
        limit = api.limit(budget_class)
        if budgets.available_at(budget, limit, now) > now:
            place = turns.ahead(session, row, most=_MOST_WINDOWS * limit)
            _put_off(session, row, budgets.available_at(budget, limit, now, ahead=place))
            return None
        chosen = turns.first(session, row, now)
        if chosen is None:
            _put_off(session, row, now + turns.MOMENT)
            return None
        won = leases.claim(
            session,
            _TABLE,
            [chosen],
            now=now,
            lease=LEASE,
            state=SENDING,
            asked_since=turns.asked_since(now),
        )
        if not won:
            return None
        budgets.debit(budget, now)
        taken = session.get_one(Confirmation, chosen, populate_existing=True)
        session.expunge(taken)
        return Task(runtime, api, budget_class, taken, won[0])


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
        # In the sequence in which events are handled: the order first, then this row.
        outcome.record(planner)
        again = outcome.again or backoff.after(task.claimed.attempt)
        let_go(planner, task.claimed, outcome.state, outcome.error, again, unsure=outcome.unsure)
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


def let_go(
    planner: Planner,
    claimed: Claim,
    state: str | None,
    error: str | None,
    again: timedelta,
    *,
    unsure: bool = False,
) -> None:
    """End a row in hand in ``state``, or have it tried ``again`` where there is none.

    Raises:
        LeaseLost: it is no longer in this hand.
    """
    session, now = planner.session, planner.now
    if state is not None:
        leases.finish(session, _TABLE, claimed, state=state, error=error, done_at=now)
        return
    leases.postpone(
        session, _TABLE, claimed, now + again, state=PENDING, error=error, unsure=unsure
    )


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


def _put_off(session: Session, row: Confirmation, until: datetime) -> None:
    """Nobody's row, not before ``until``: the sweep need not look at it until then."""
    statement = (
        update(_TABLE)
        .where(_TABLE.c.id == row.id, _TABLE.c.lease_until.is_(None), _TABLE.c.wake_at.is_not(None))
        .values(wake_at=until)
    )
    session.connection().execute(statement)
