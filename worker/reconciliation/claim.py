"""The rows by which providers are polled: debit a call and claim a row, record the result.

Polling uses what is left of a call budget. One part of it is reserved, so that a confirmation or a
verification is allowed at once, and while one of those waits, nothing is polled. The more orders
are open, the longer the interval between two polls of each.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final

import structlog
from sqlalchemy import String, bindparam, func, or_, sql, update
from sqlmodel import Session, col, select

from receiver import queue
from receiver.database.engine import persist
from worker.outbox import call_budgets, leases
from worker.outbox.call_budgets import OutOfBudget, budget_key
from worker.outbox.leases import CALL_LEASE, Claim, LeaseLost
from worker.outbox.planner import Planner, planning
from worker.providers.capabilities import CONFIRMATION_CALLS, ReportsOrders, confirmation_call
from worker.reconciliation.merge import Query
from worker.runtime.integrations import Api
from worker.runtime.runtime import Runtime
from worker.schema.models import OPEN, Confirmation, Order, Reconciliation, table_of
from worker.schema.states import HISTORY, ORDER

# Calls in flight per provider: a provider that hangs blocks no more of the sender's threads.
MAX_IN_FLIGHT = 2
TABLE = table_of(Reconciliation)
_MINUTE = timedelta(seconds=60)
# How long to wait for more urgent calls, or for the calls in flight.
_BUSY_DELAY = timedelta(seconds=2)
_WAITING: Final = sql.select(TABLE.c.id, TABLE.c.provider).where(
    TABLE.c.id.in_(bindparam("ids", expanding=True, type_=String)), leases.claimable(TABLE)
)
_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Task:
    """A claimed row and the API to ask; ``asked_at`` is the time of the claim."""

    runtime: Runtime
    api: Api
    client: ReportsOrders
    row: Reconciliation
    claim: Claim
    asked_at: datetime

    @property
    def query(self) -> Query:
        """The query that the answer belongs to."""
        return Query(provider=self.row.provider, client=self.client, asked_at=self.asked_at)

    def debit_call(self) -> None:
        """Debit one more call of this attempt, and renew the lease for it.

        Raises:
            OutOfBudget: the call is not allowed now.
            LeaseLost: the claim no longer holds.
        """
        database, provider = self.runtime.database, self.row.provider
        class_, limit = _budget(self.api, self.client, self.row)
        with database.transaction() as session:
            now = call_budgets.pay(session, database, budget_key(provider, class_), limit)
            if _is_urgent_waiting(session, self.api, provider, class_, now):
                raise OutOfBudget(now + _BUSY_DELAY, now)
            leases.renew(session, TABLE, self.claim, now=now, lease=CALL_LEASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptResult:
    """The result of an attempt.

    Attributes:
        delay: until the next attempt; None ends the row.
        values: what to write to the row.
        block: how long no call of the budget is allowed.
        events: the ids of new inbox events, to be handled now.
    """

    delay: timedelta | None
    values: Mapping[str, object] = field(default_factory=dict)
    block: timedelta | None = None
    events: Sequence[str] = ()


def succeeded(
    planner: Planner,
    delay: timedelta | None,
    *,
    events: Sequence[str] = (),
    error: str | None = None,
    **values: object,
) -> AttemptResult:
    """The result of an answered attempt; ``error`` says what the answer lacked."""
    usual = {"answered_at": planner.now, "failures": 0, "vanished": 0, "error": error}
    return AttemptResult(delay=delay, values={**usual, **values}, events=events)


# Writes what an attempt found out, in the transaction that releases the row.
WriteResult = Callable[[Planner], AttemptResult]


def by_provider(runtime: Runtime, ids: Sequence[str]) -> Mapping[str, Sequence[str]]:
    """Those of the rows ``ids`` that can be claimed, by provider."""
    with runtime.database.reading() as session:
        bound = {**leases.times(runtime.database.now(session)), "ids": list(ids)}
        rows = session.connection().execute(_WAITING, bound).all()
    providers: dict[str, list[str]] = {}
    for row, provider in rows:
        providers.setdefault(provider, []).append(row)
    return providers


def claim(runtime: Runtime, row_id: str) -> Task | None:
    """Claim a row and debit its call; None if there is no due row or the call is not allowed.

    A row about an order stands for all such rows of its provider: the one whose order ends first
    is claimed.
    """
    with runtime.database.transaction() as session:
        row = session.get(Reconciliation, row_id)
        if row is None:
            return None
        api = runtime.integrations.apis.get(row.provider)
        if api is None or not isinstance(api.client, ReportsOrders):
            _defer(session, row_id, runtime.database.now(session) + _MINUTE)
            return None
        class_, limit = _budget(api, api.client, row)
        budget = call_budgets.lock(session, budget_key(row.provider, class_))
        now = runtime.database.now(session)  # after the lock, which may have taken time
        until = call_budgets.available_at(budget, limit, now)
        if until <= now and (
            _is_urgent_waiting(session, api, row.provider, class_, now)
            or _count_in_flight(session, row.provider, now) >= MAX_IN_FLIGHT
        ):
            until = now + _BUSY_DELAY
        if until > now:
            _defer(session, row_id, until)
            return None
        chosen = _most_urgent(session, row, now)
        claims = leases.claim(session, TABLE, chosen, now=now, lease=CALL_LEASE)
        if not claims:
            return None
        call_budgets.debit(budget, now)
        claimed = session.get_one(Reconciliation, claims[0].id, populate_existing=True)
        session.expunge(claimed)
        return Task(runtime, api, api.client, claimed, claims[0], now)


def record(task: Task, write: WriteResult) -> None:
    """Release a row with the result of ``write``, unless its lease was lost meanwhile."""
    runtime, row = task.runtime, task.row
    try:
        planner, result = persist(lambda: _write(task, write))
    except LeaseLost as lost:
        _log.warning("reconciliation.lease_lost", reconciliation_id=row.id, reason=str(lost))
        return
    runtime.waker.wake(queue.HANDLE_EVENTS, result.events)
    planner.wake(runtime.waker)
    if result.delay is not None and not result.delay:
        runtime.waker.wake(queue.RECONCILE, [row.id], group=row.provider)
    error = result.values.get("error")
    log: Callable[..., Any] = _log.info if error is None else _log.warning
    log(
        "reconciliation.attempted",
        reconciliation_id=row.id,
        provider=row.provider,
        action=row.action,
        order_id=row.order_id,
        events=len(result.events),
        ended=result.delay is None,
        reason=error,
    )


def poll_interval(task: Task, session: Session) -> timedelta:
    """How long an open order waits for its next poll: all open orders share the budget."""
    polling_policy = task.client.polling_policy()
    share = spendable(task.api.limit(task.api.budget_of(polling_policy.order_call)))
    return max(polling_policy.interval, count_open(session, task.row.provider) * _MINUTE / share)


def polls_pages(task: Task, session: Session) -> bool:
    """Whether enough orders are open to poll them by pages instead of one by one."""
    return count_open(session, task.row.provider) >= task.client.polling_policy().bulk_threshold


def spendable(limit: int) -> int:
    """How many of ``limit`` calls polling may use; the rest is reserved for urgent calls."""
    return limit - limit // 2


def count_open(session: Session, provider: str) -> int:
    """How many open orders of a provider are polled."""
    counted = select(func.count()).where(
        col(Reconciliation.provider) == provider,
        col(Reconciliation.action) == ORDER,
        col(Reconciliation.wake_at).is_not(None),
    )
    return session.exec(counted).one()


def history_rows(session: Session) -> Sequence[Reconciliation]:
    """The active rows that read the providers' newest orders, one per provider."""
    chosen = select(Reconciliation).where(
        col(Reconciliation.action) == HISTORY, col(Reconciliation.wake_at).is_not(None)
    )
    return session.exec(chosen.order_by(col(Reconciliation.provider))).all()


def postpone_orders(
    session: Session, provider: str, order_ids: Sequence[str], until: datetime
) -> None:
    """Do not poll these orders singly before ``until``: a page has just reported them.

    Orders that end before ``until`` keep their time. Each postponed row counts an attempt.
    """
    statement = (
        update(TABLE)
        .where(
            TABLE.c.provider == provider,
            TABLE.c.action == ORDER,
            TABLE.c.order_id.in_(order_ids),
            TABLE.c.deadline > until,
            TABLE.c.next_attempt_at < until,
            TABLE.c.lease_until.is_(None),
            TABLE.c.wake_at.is_not(None),
        )
        .values(attempt=TABLE.c.attempt + 1, next_attempt_at=until, wake_at=until)
    )
    session.connection().execute(statement)


def _budget(api: Api, client: ReportsOrders, row: Reconciliation) -> tuple[str, int]:
    """The class of the row's calls, and how many of them polling may make."""
    policy = client.polling_policy()
    class_ = api.budget_of(policy.order_call if row.action == ORDER else policy.page_call)
    return class_, spendable(api.limit(class_))


def _is_urgent_waiting(
    session: Session, api: Api, provider: str, class_: str, now: datetime
) -> bool:
    """Whether a due confirmation or verification needs a call of this class."""
    actions = [
        action
        for action in CONFIRMATION_CALLS
        if api.budget_of(confirmation_call(api.client, action)) == class_
    ]
    waiting = select(Confirmation.id).where(
        col(Confirmation.provider) == provider,
        col(Confirmation.action).in_(actions),
        col(Confirmation.wake_at).is_not(None),
        col(Confirmation.lease_until).is_(None),
        col(Confirmation.next_attempt_at) <= now,
    )
    return session.exec(waiting.limit(1)).first() is not None


def _count_in_flight(session: Session, provider: str, now: datetime) -> int:
    leased = select(func.count()).where(
        col(Reconciliation.provider) == provider, leases.held(TABLE)
    )
    return session.exec(leased, params=leases.times(now)).one()


def _most_urgent(session: Session, row: Reconciliation, now: datetime) -> list[str]:
    """The due row to claim, if any: this one, or among rows about orders the first to end."""
    due = (
        leases.claimable(TABLE),
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


def _write(task: Task, write: WriteResult) -> tuple[Planner, AttemptResult]:
    with planning(task.runtime.database) as planner:
        result = write(planner)
        if result.block is not None:
            class_, _ = _budget(task.api, task.client, task.row)
            until = planner.now + result.block
            call_budgets.block(planner.session, budget_key(task.row.provider, class_), until)
        if result.delay is None:
            leases.finish(planner.session, TABLE, task.claim, **result.values)
        else:
            until = planner.now + result.delay
            leases.postpone(planner.session, TABLE, task.claim, until, **result.values)
    return planner, result


def _defer(session: Session, row_id: str, until: datetime) -> None:
    """Keep the sweep from waking an unleased row before ``until``."""
    statement = (
        update(TABLE)
        .where(TABLE.c.id == row_id, TABLE.c.lease_until.is_(None), TABLE.c.wake_at.is_not(None))
        .values(wake_at=until)
    )
    session.connection().execute(statement)
