"""Settling codes with their providers: the part that confirming and verifying have in common.

A call is paid for and its row claimed in one short transaction, made outside of any, and recorded
in another, each for several rows. Whatever happened, a row says when it is next due, or how it
ended.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import structlog

from receiver.database.engine import TROUBLE, persist
from receiver.failpoints import reach
from worker.orders.store import Standing
from worker.outbox import backoff, call_budgets, leases
from worker.outbox.call_budgets import RATE_LIMIT_PAUSE, OutOfBudget, budget_key
from worker.outbox.leases import CALL_LEASE, Claim, LeaseLost
from worker.outbox.planner import Planner, planning
from worker.providers.errors import ProviderError, RateLimited
from worker.runtime.integrations import Api
from worker.runtime.runtime import Runtime
from worker.schema.models import Confirmation, table_of
from worker.schema.states import DEAD, PENDING, UNKNOWN

MOST_ATTEMPTS = 15
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


@dataclass(frozen=True, slots=True)
class Task:
    """One row in hand, the provider it is about, and how its order stood when it was taken."""

    runtime: Runtime
    api: Api
    budget: str
    row: Confirmation
    claimed: Claim
    standing: Standing | None = None

    @property
    def place(self) -> tuple[str, str, str]:
        """In this sequence rows of several orders are written by everybody."""
        return self.row.provider, self.row.order_id, self.row.id

    def pay_again(self) -> None:
        """Pay for one more call of this attempt, and keep the row in hand for it.

        Raises:
            OutOfBudget: it cannot be paid now.
            LeaseLost: the row is no longer in this hand.
        """
        with self.runtime.database.transaction() as session:
            budget = call_budgets.lock(session, budget_key(self.row.provider, self.budget))
            now = self.runtime.database.now(session)
            until = call_budgets.available_at(budget, self.api.limit(self.budget), now)
            if until > now:
                raise OutOfBudget(until)
            call_budgets.debit(budget, now)
            leases.renew(session, _TABLE, self.claimed, now=now, lease=CALL_LEASE)


def record(runtime: Runtime, ended: Sequence[tuple[Task, Outcome]]) -> None:
    """Write how some attempts ended, but for rows that were lost to somebody else meanwhile."""
    try:
        planner, lost = persist(lambda: _write(runtime, ended))
    except TROUBLE:
        raise
    except Exception as error:  # noqa: BLE001 - a bug about one of them must not stop the others
        if len(ended) == 1:
            _log.exception("confirmation.record_broke", confirmation_id=ended[0][0].row.id)
            return
        _log.warning("confirmation.records_broke", rows=len(ended), error=type(error).__name__)
        for each in ended:
            record(runtime, [each])
        return
    reach("confirmations.after_record")
    planner.wake(runtime.waker)
    for task, outcome in ended:
        if task.row.id not in lost:
            _say(task, outcome)


def _say(task: Task, outcome: Outcome) -> None:
    log: Callable[..., Any] = _log.info if outcome.error is None else _log.warning
    log(
        "confirmation.attempted",
        confirmation_id=task.row.id,
        event_id=task.row.event_id,
        action=task.row.action,
        state=outcome.state or PENDING,
        attempt=task.claimed.attempt,
        reason=outcome.error,
    )


def _write(
    runtime: Runtime, ended: Sequence[tuple[Task, Outcome]]
) -> tuple[Planner, Collection[str]]:
    """In the sequence in which events are handled: by their orders. Also the ids of lost rows."""
    lost: set[str] = set()
    with planning(runtime.database) as planner:
        for task, outcome in sorted(ended, key=lambda each: each[0].place):
            try:
                _write_one(planner, task, outcome)
            except LeaseLost as error:
                lost.add(task.row.id)
                _log.warning(
                    "confirmation.lease_lost", confirmation_id=task.row.id, reason=str(error)
                )
    return planner, lost


def _write_one(planner: Planner, task: Task, outcome: Outcome) -> None:
    # The row first: what else is written must not be, if somebody else holds it.
    again = outcome.again or backoff.after(task.claimed.attempt)
    let_go(planner, task.claimed, outcome.state, outcome.error, again, unsure=outcome.unsure)
    row = task.row
    if outcome.block is not None:
        key = budget_key(row.provider, task.budget)
        call_budgets.block(planner.session, key, planner.now + outcome.block)
    outcome.record(planner)
    if outcome.state in {DEAD, UNKNOWN}:
        planner.notice(
            task.runtime.policy.routing.operators(),
            "unsettled",
            event_id=row.event_id,
            detail=f"Order {row.order_id} of {row.provider}: could not {row.action} it: "
            f"{outcome.error}. Look: codecatch orders show {row.order_id}; then: "
            f"codecatch events replay {row.event_id}",
        )


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
