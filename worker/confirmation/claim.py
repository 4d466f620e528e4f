"""Claims confirmations in fair order, as far as the call budget allows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from itertools import groupby
from operator import attrgetter
from typing import Final

from sqlalchemy import String, bindparam, update
from sqlmodel import Session, col, select

from receiver import clock
from receiver.database.engine import UtcTime
from worker.confirmation import fair_queue
from worker.confirmation.attempt import Task
from worker.orders import store as orders
from worker.outbox import call_budgets, leases
from worker.outbox.call_budgets import budget_key
from worker.outbox.leases import CALL_LEASE, CALL_SECONDS
from worker.providers.capabilities import confirmation_call
from worker.runtime.integrations import Api
from worker.runtime.runtime import Runtime
from worker.schema.models import Confirmation, table_of
from worker.schema.states import SENDING

# A row far back in its queue is woken after this many windows at the latest: by then the queue may
# be shorter.
_MAX_WINDOWS = 10
_NO_API_DELAY = timedelta(seconds=60)
_TABLE = table_of(Confirmation)
_IDS: Final = bindparam("ids", expanding=True, type_=String)
_ROWS: Final = select(Confirmation).where(col(Confirmation.id).in_(_IDS))
_QUEUES: Final = select(_TABLE.c.id, _TABLE.c.provider, _TABLE.c.action).where(
    _TABLE.c.id.in_(_IDS), leases.claimable(_TABLE)
)
_CLAIMABLE: Final = _ROWS.where(leases.claimable(_TABLE)).order_by(
    col(Confirmation.provider), col(Confirmation.action), col(Confirmation.id)
)
_DEFER: Final = (
    update(_TABLE)
    .where(
        _TABLE.c.id == bindparam("row", type_=String),
        _TABLE.c.lease_until.is_(None),
        _TABLE.c.wake_at.is_not(None),
    )
    .values(wake_at=bindparam("until", type_=UtcTime))
)


def by_queue(runtime: Runtime, ids: Sequence[str]) -> Mapping[tuple[str, str], Sequence[str]]:
    """Those of the rows ``ids`` that can be claimed, by the queue that they wait in."""
    with runtime.database.reading() as session:
        bound = {**leases.times(runtime.database.now(session)), "ids": list(ids)}
        rows = session.connection().execute(_QUEUES, bound).all()
    queues: dict[tuple[str, str], list[str]] = {}
    for row, provider, action in rows:
        queues.setdefault((provider, action), []).append(row)
    return queues


def claim(runtime: Runtime, ids: Sequence[str]) -> list[Task]:
    """Claim up to ``len(ids)`` rows of the queues that ``ids`` wait in, and debit a call for each.

    The rows at the head of a queue are claimed, whichever rows woke. Returns fewer tasks, or
    none, if rows are leased, ended or not due, or if the budget is spent.
    """
    with runtime.database.transaction() as session:
        bound = {**leases.times(runtime.database.now(session)), "ids": list(ids)}
        rows = session.exec(_CLAIMABLE, params=bound).all()
        return [
            task
            for (provider, action), queued in groupby(rows, attrgetter("provider", "action"))
            for task in _claim(runtime, session, provider, action, list(queued))
        ]


def _claim(
    runtime: Runtime, session: Session, provider: str, action: str, rows: Sequence[Confirmation]
) -> list[Task]:
    """Claim for rows of one queue."""
    api = runtime.integrations.apis.get(provider)
    if api is None:
        for row in rows:
            _defer(session, row, runtime.database.now(session) + _NO_API_DELAY)
        return []
    budget_class = api.budget_of(confirmation_call(api.client, action))
    claims, call_until = _claim_affordable(runtime, session, api, budget_class, rows)
    claimed_rows = session.exec(
        _ROWS,
        params={"ids": [each.id for each in claims]},
        execution_options={"populate_existing": True},
    )
    by_id = {row.id: row for row in claimed_rows}
    statuses = orders.statuses(session, provider, [row.order_id for row in by_id.values()])
    session.expunge_all()
    tasks = []
    for each in claims:
        row = by_id[each.id]
        status = statuses.get(row.order_id)
        tasks.append(Task(runtime, api, budget_class, row, each, call_until, status))
    return tasks


def _claim_affordable(
    runtime: Runtime,
    session: Session,
    api: Api,
    budget_class: str,
    rows: Sequence[Confirmation],
) -> tuple[list[leases.Claim], float]:
    """Claim up to ``len(rows)`` rows of their queue, as far as the budget allows.

    Also returns when their calls must be over, see :class:`Task`.
    """
    limit = api.limit(budget_class)
    budget = call_budgets.lock(session, budget_key(rows[0].provider, budget_class))
    call_until = clock.boottime() + CALL_SECONDS
    now = runtime.database.now(session)  # after the lock: a call counts when it is made
    affordable = min(call_budgets.room(budget, limit, now), len(rows))
    heads = fair_queue.next_rows(session, rows, now)[:affordable] if affordable else []
    claims = leases.claim(
        session, _TABLE, heads, now=now, lease=CALL_LEASE, include_expired=True,
        state=SENDING, asked_since=fair_queue.ASKED_SINCE,
    ) if heads else []  # fmt: skip
    if claims:
        call_budgets.debit(budget, now, len(claims))
    for row in rows[len(heads) :]:
        if call_budgets.available_at(budget, limit, now) > now:
            ahead = fair_queue.orders_ahead(session, row, limit=_MAX_WINDOWS * limit)
            _defer(session, row, call_budgets.available_at(budget, limit, now, ahead=ahead))
        else:
            _defer(session, row, now + fair_queue.ANSWER_FRESH)
    session.flush()
    return claims, call_until


def _defer(session: Session, row: Confirmation, until: datetime) -> None:
    """Keep the sweep from waking an unleased row before ``until``."""
    session.connection().execute(_DEFER, {"row": row.id, "until": until})
