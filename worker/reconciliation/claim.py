"""The rows by which providers are asked again and again: made, paid for, claimed, let go.

Asking takes what is left of a budget. A part of it is never touched, so that a confirmation or a
question about a held code is paid at once, and while one of those waits for its turn nothing is
asked at all. The more orders are open, the longer each of them waits for its next question.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import structlog
from sqlalchemy import func, or_, update
from sqlmodel import Session, col, select

from receiver import queue
from receiver.database.engine import persist
from worker.outbox import call_budgets, leases
from worker.outbox.call_budgets import OutOfBudget, budget_key
from worker.outbox.leases import CALL_LEASE, Claim, LeaseLost
from worker.outbox.planner import Planner, planning
from worker.providers.capabilities import CALL_OF, Reports
from worker.reconciliation.merge import Asked
from worker.runtime.integrations import Api
from worker.runtime.runtime import Runtime
from worker.schema.models import OPEN, Budget, Confirmation, Order, Reconciliation, table_of
from worker.schema.states import HISTORY, ORDER

# A provider that hangs keeps so many of the sender's threads, and no more.
IN_HAND = 2
TABLE = table_of(Reconciliation)
_MINUTE = timedelta(seconds=60)
# How long to stand back for what is more urgent, or for whoever has the provider in hand.
_MOMENT = timedelta(seconds=2)
_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Task:
    """One row in hand, and the provider to ask; ``asked_at`` is when it was taken."""

    runtime: Runtime
    api: Api
    client: Reports
    row: Reconciliation
    claimed: Claim
    asked_at: datetime

    @property
    def asked(self) -> Asked:
        """Who is asked, for what becomes of the answer."""
        return Asked(provider=self.row.provider, client=self.client, at=self.asked_at)

    def pay_again(self) -> None:
        """Pay for one more call of this attempt, and keep the row in hand for it.

        Raises:
            OutOfBudget: it cannot be paid now.
            LeaseLost: the row is no longer in this hand.
        """
        with self.runtime.database.transaction() as session:
            budget, until, now = _budget(self.runtime, session, self.api, self.client, self.row)
            if until > now:
                raise OutOfBudget(until)
            call_budgets.debit(budget, now)
            leases.renew(session, TABLE, self.claimed, now=now, lease=CALL_LEASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Next:
    """What follows an attempt: when the next one is due (None: never), and what to write.

    ``block`` is how long the provider wants none of the calls of this budget; ``events`` are the
    rows of the inbox to be handled now.
    """

    again: timedelta | None
    values: Mapping[str, object] = field(default_factory=dict)
    block: timedelta | None = None
    events: Sequence[str] = ()


def well(
    planner: Planner,
    again: timedelta | None,
    *,
    events: Sequence[str] = (),
    error: str | None = None,
    **values: object,
) -> Next:
    """What follows an answer; ``error`` is what it lacked."""
    fresh = {"answered_at": planner.now, "failures": 0, "vanished": 0, "error": error}
    return Next(again=again, values={**fresh, **values}, events=events)


# Writes what an attempt found out, in the transaction that lets go of the row.
Record = Callable[[Planner], Next]


def take(runtime: Runtime, row_id: str) -> Task | None:
    """Pay for a call and claim a row for it; None if there is none, or no call can be paid.

    A row about an order stands for all of its provider's: the one that ends first is taken.
    """
    with runtime.database.transaction() as session:
        row = session.get(Reconciliation, row_id)
        if row is None:
            return None
        api = runtime.integrations.apis.get(row.provider)
        if api is None or not isinstance(api.client, Reports):
            _put_off(session, row_id, runtime.database.now(session) + _MINUTE)
            return None
        budget, until, now = _budget(runtime, session, api, api.client, row)
        if until <= now and _in_hand(session, row.provider, now) >= IN_HAND:
            until = now + _MOMENT
        if until > now:
            _put_off(session, row_id, until)
            return None
        chosen = _most_urgent(session, row, now)
        won = leases.claim(session, TABLE, chosen, now=now, lease=CALL_LEASE)
        if not won:
            return None
        call_budgets.debit(budget, now)
        taken = session.get_one(Reconciliation, won[0].id, populate_existing=True)
        session.expunge(taken)
        return Task(runtime, api, api.client, taken, won[0], now)


def record(task: Task, write: Record) -> None:
    """Let go of a row with what ``write`` says, unless it was lost to somebody else meanwhile."""
    runtime, row = task.runtime, task.row
    try:
        planner, following = persist(lambda: _write(task, write))
    except LeaseLost as lost:
        _log.warning("reconciliation.lease_lost", reconciliation_id=row.id, reason=str(lost))
        return
    runtime.waker.wake(queue.HANDLE_EVENTS, following.events)
    planner.wake(runtime.waker)
    if following.again is not None and not following.again:
        runtime.waker.wake(queue.RECONCILE, [row.id], group=row.provider)
    error = following.values.get("error")
    log: Callable[..., Any] = _log.info if error is None else _log.warning
    log(
        "reconciliation.attempted",
        reconciliation_id=row.id,
        provider=row.provider,
        action=row.action,
        order_id=row.order_id,
        events=len(following.events),
        ended=following.again is None,
        reason=error,
    )


def pause(task: Task, session: Session) -> timedelta:
    """How long an open order waits for its next question: all share what may be spent."""
    polling_policy = task.client.polling_policy()
    share = spendable(task.api.limit(task.api.budget_of(polling_policy.one)))
    return max(polling_policy.every, count_open(session, task.row.provider) * _MINUTE / share)


def is_crowded(task: Task, session: Session) -> bool:
    """Whether so many orders are open that they are told of by pages, and not one by one."""
    return count_open(session, task.row.provider) >= task.client.polling_policy().crowd


def spendable(limit: int) -> int:
    """How many of ``limit`` calls may be made here; the others are for what people wait for."""
    return limit - limit // 2


def count_open(session: Session, provider: str) -> int:
    """How many open orders of a provider are watched."""
    counted = select(func.count()).where(
        col(Reconciliation.provider) == provider,
        col(Reconciliation.action) == ORDER,
        col(Reconciliation.wake_at).is_not(None),
    )
    return session.exec(counted).one()


def histories(session: Session) -> Sequence[Reconciliation]:
    """The rows by which the providers' newest orders are read, one for each provider."""
    wanted = select(Reconciliation).where(
        col(Reconciliation.action) == HISTORY, col(Reconciliation.wake_at).is_not(None)
    )
    return session.exec(wanted.order_by(col(Reconciliation.provider))).all()


def answered(session: Session, provider: str, orders: Sequence[str], until: datetime) -> None:
    """A page told of these orders: none of them is asked for by itself before ``until``.

    Those that are to end before are left as they are. A page is an attempt like any other.
    """
    statement = (
        update(TABLE)
        .where(
            TABLE.c.provider == provider,
            TABLE.c.action == ORDER,
            TABLE.c.order_id.in_(orders),
            TABLE.c.deadline > until,
            TABLE.c.next_attempt_at < until,
            TABLE.c.lease_until.is_(None),
            TABLE.c.wake_at.is_not(None),
        )
        .values(attempt=TABLE.c.attempt + 1, next_attempt_at=until, wake_at=until)
    )
    session.connection().execute(statement)


def _budget(
    runtime: Runtime, session: Session, api: Api, client: Reports, row: Reconciliation
) -> tuple[Budget, datetime, datetime]:
    """The budget of the row's calls, locked; when it has room for one of them; and the time."""
    class_ = _budget_class(api, client, row)
    budget = call_budgets.lock(session, budget_key(row.provider, class_))
    now = runtime.database.now(session)  # after the lock, which may have been waited for
    until = call_budgets.available_at(budget, spendable(api.limit(class_)), now)
    if until <= now and _urgent(session, api, row.provider, class_, now):
        until = now + _MOMENT
    return budget, until, now


def _budget_class(api: Api, client: Reports, row: Reconciliation) -> str:
    polling_policy = client.polling_policy()
    return api.budget_of(polling_policy.one if row.action == ORDER else polling_policy.many)


def _urgent(session: Session, api: Api, provider: str, class_: str, now: datetime) -> bool:
    """Whether a confirmation or a question about a held code waits for a call of this class."""
    actions = [action for action, call in CALL_OF.items() if api.budget_of(call) == class_]
    waiting = select(Confirmation.id).where(
        col(Confirmation.provider) == provider,
        col(Confirmation.action).in_(actions),
        col(Confirmation.wake_at).is_not(None),
        col(Confirmation.lease_until).is_(None),
        col(Confirmation.next_attempt_at) <= now,
    )
    return session.exec(waiting.limit(1)).first() is not None


def _in_hand(session: Session, provider: str, now: datetime) -> int:
    held = select(func.count()).where(
        col(Reconciliation.provider) == provider, col(Reconciliation.lease_until) > now
    )
    return session.exec(held).one()


def _most_urgent(session: Session, row: Reconciliation, now: datetime) -> list[str]:
    """The row to claim, if one is due: this one, or of those about orders the first to end."""
    due = (
        leases.available(TABLE),
        or_(TABLE.c.next_attempt_at <= now, TABLE.c.lease_until.is_not(None)),
    )
    if row.action != ORDER:
        only = select(Reconciliation.id).where(TABLE.c.id == row.id, *due)
        return list(session.exec(only, params=leases.times(now)))
    open_order = select(Order.id).where(
        col(Order.provider) == row.provider, col(Order.order_id) == TABLE.c.order_id, OPEN
    )
    first = (
        select(Reconciliation.id)
        .where(TABLE.c.provider == row.provider, TABLE.c.action == ORDER, *due)
        .where(open_order.exists())
        .order_by(TABLE.c.deadline, TABLE.c.id)
        .limit(1)
    )
    return list(session.exec(first, params=leases.times(now)))


def _write(task: Task, write: Record) -> tuple[Planner, Next]:
    with planning(task.runtime.database) as planner:
        following = write(planner)
        if following.block is not None:
            key = budget_key(task.row.provider, _budget_class(task.api, task.client, task.row))
            call_budgets.block(planner.session, key, planner.now + following.block)
        if following.again is None:
            leases.finish(planner.session, TABLE, task.claimed, **following.values)
        else:
            until = planner.now + following.again
            leases.postpone(planner.session, TABLE, task.claimed, until, **following.values)
    return planner, following


def _put_off(session: Session, row_id: str, until: datetime) -> None:
    """Nobody's row, not before ``until``: the sweep need not look at it until then."""
    statement = (
        update(TABLE)
        .where(TABLE.c.id == row_id, TABLE.c.lease_until.is_(None), TABLE.c.wake_at.is_not(None))
        .values(wake_at=until)
    )
    session.connection().execute(statement)
