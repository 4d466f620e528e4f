"""One attempt to settle a confirmation with its provider: what confirming and verifying share.

A short transaction debits the call and claims its row; the call is made outside any transaction;
another transaction records the outcome. Each transaction covers several rows. Whatever the
outcome, a row then says when it is next due, or how it ended.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import structlog

from receiver import clock
from receiver.database.engine import persist
from receiver.database.trouble import is_trouble
from receiver.failpoints import reach
from worker.orders import store as orders
from worker.orders.merge import Merge
from worker.orders.store import OrderStatus
from worker.outbox import backoff, call_budgets, leases
from worker.outbox.call_budgets import budget_key
from worker.outbox.leases import CALL_LEASE, CALL_SECONDS, Claim, LeaseLost
from worker.outbox.planner import Planner, planning
from worker.providers.errors import ProviderError, RateLimited
from worker.runtime.integrations import Api
from worker.runtime.runtime import Runtime
from worker.schema.models import Confirmation, table_of
from worker.schema.states import CONFIRMED, DEAD, PENDING, UNKNOWN

MAX_ATTEMPTS = 15
_TABLE = table_of(Confirmation)
_log = structlog.get_logger(__name__)

WriteEffects = Callable[[Planner], None]


def no_effects(_: Planner) -> None:
    """Write nothing."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How an attempt ended.

    ``state`` is the end state, or None to retry after ``delay`` (None: the usual back-off).
    ``block`` is how long no call of the budget is allowed. ``write_effects`` runs in the
    transaction that releases the row.
    """

    state: str | None
    error: str | None = None
    delay: timedelta | None = None
    unsure: bool = False
    block: timedelta | None = None
    write_effects: WriteEffects = no_effects


@dataclass(slots=True)
class Task:
    """A claimed row, its provider's API, and its order's status at the time of the claim.

    ``call_until`` is when its call must be over, in seconds of :func:`receiver.clock.boottime`.
    After the lease another process makes the call, and two of them could charge twice.
    """

    runtime: Runtime
    api: Api
    budget: str
    row: Confirmation
    claim: Claim
    call_until: float
    order_status: OrderStatus | None = None

    @property
    def lock_key(self) -> tuple[str, str, str]:
        """Sort key: every transaction writes in this order, to avoid deadlocks."""
        return self.row.provider, self.row.order_id, self.row.id

    def debit_call(self) -> None:
        """Debit one more call of this attempt, and renew the lease for it.

        Raises:
            OutOfBudget: the call is not allowed now.
            LeaseLost: the claim no longer holds.
        """
        database, key = self.runtime.database, budget_key(self.row.provider, self.budget)
        began = clock.boottime()
        with database.transaction() as session:
            now = call_budgets.pay(session, database, key, self.api.limit(self.budget))
            leases.renew(session, _TABLE, self.claim, now=now, lease=CALL_LEASE)
        self.call_until = began + CALL_SECONDS


def record(runtime: Runtime, outcomes: Sequence[tuple[Task, Outcome]]) -> None:
    """Record how attempts ended, except those whose lease was lost meanwhile."""
    try:
        planner, lost = persist(lambda: _write(runtime, outcomes))
    except Exception as error:
        if is_trouble(error):
            raise
        if len(outcomes) == 1:
            _log.exception("confirmation.record_failed", confirmation_id=outcomes[0][0].row.id)
            return
        _log.warning("confirmation.batch_failed", rows=len(outcomes), error=type(error).__name__)
        for each in outcomes:
            record(runtime, [each])
        return
    reach("confirmations.after_record")
    planner.wake(runtime.waker)
    for task, outcome in outcomes:
        if task.row.id not in lost:
            _log_attempt(task, outcome)


def _log_attempt(task: Task, outcome: Outcome) -> None:
    log: Callable[..., Any] = _log.info if outcome.error is None else _log.warning
    log(
        "confirmation.attempted",
        confirmation_id=task.row.id,
        event_id=task.row.event_id,
        action=task.row.action,
        state=outcome.state or PENDING,
        attempt=task.claim.attempt,
        reason=outcome.error,
    )


def _write(
    runtime: Runtime, outcomes: Sequence[tuple[Task, Outcome]]
) -> tuple[Planner, Collection[str]]:
    """Write the outcomes in lock order; also return the ids of the rows whose lease was lost."""
    lost: set[str] = set()
    with planning(runtime.database) as planner:
        for task, outcome in sorted(outcomes, key=lambda each: each[0].lock_key):
            try:
                _write_one(planner, task, outcome)
            except LeaseLost as error:
                lost.add(task.row.id)
                _log.warning(
                    "confirmation.lease_lost", confirmation_id=task.row.id, reason=str(error)
                )
    return planner, lost


def _write_one(planner: Planner, task: Task, outcome: Outcome) -> None:
    # The row first: if its lease is lost, nothing else may be written.
    delay = outcome.delay or backoff.after(task.claim.attempt)
    release_row(planner, task.claim, outcome.state, outcome.error, delay, unsure=outcome.unsure)
    row = task.row
    if outcome.block is not None:
        key = budget_key(row.provider, task.budget)
        call_budgets.block(planner.session, key, planner.now + outcome.block)
    outcome.write_effects(planner)
    if outcome.state in {DEAD, UNKNOWN}:
        planner.plan_notice(
            task.runtime.policy.routing.operators(),
            "unsettled",
            event_id=row.event_id,
            detail=f"Order {row.order_id} of {row.provider}: could not {row.action} it: "
            f"{outcome.error}. To show: codecatch orders show {row.order_id}. "
            f"To retry: codecatch events replay {row.event_id}",
        )


def release_row(
    planner: Planner,
    claim: Claim,
    state: str | None,
    error: str | None,
    delay: timedelta,
    *,
    unsure: bool = False,
) -> None:
    """End a claimed row in ``state``, or retry it after ``delay`` if ``state`` is None.

    Raises:
        LeaseLost: the claim no longer holds.
    """
    session, now = planner.session, planner.now
    if state is not None:
        leases.finish(session, _TABLE, claim, state=state, error=error, done_at=now)
        return
    leases.postpone(session, _TABLE, claim, now + delay, state=PENDING, error=error, unsure=unsure)


def mark_confirmed(row: Confirmation, kind: str, planner: Planner) -> None:
    """Record that the row's order is confirmed; ``kind`` says how that is known."""
    session, now = planner.session, planner.now
    merge = Merge(session, orders.find_or_create(session, row.provider, row.order_id, now=now), now)
    merge.advance(CONFIRMED, kind=kind, event_id=row.event_id, at=now)
    merge.order.updated_at = now
    merge.write()


def after_error(task: Task, error: ProviderError, *, unsure: bool) -> Outcome:
    """The outcome of an error that has no special rule."""
    reason = str(error)
    if isinstance(error, RateLimited):
        return Outcome(None, reason, delay=error.pause, block=error.pause, unsure=unsure)
    unsure = unsure or error.unknown
    if error.permanent:
        return Outcome(DEAD, reason)
    if task.claim.attempt >= MAX_ATTEMPTS:
        return Outcome(UNKNOWN if unsure else DEAD, f"{reason}; given up")
    delay = timedelta(seconds=error.retry_after) if error.retry_after else None
    return Outcome(None, reason, delay=delay, unsure=unsure)
