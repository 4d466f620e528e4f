"""Taking confirmations in hand: whose turn it is, and whether the calls can be paid for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from itertools import groupby
from operator import attrgetter
from typing import Final

from sqlalchemy import String, bindparam, update
from sqlmodel import Session, col, select

from receiver.database.engine import UtcTime
from worker.confirmation import fair_queue
from worker.confirmation.attempt import Task
from worker.orders import store as orders
from worker.outbox import call_budgets, leases
from worker.outbox.call_budgets import budget_key
from worker.outbox.leases import CALL_LEASE
from worker.runtime.integrations import Api
from worker.runtime.runtime import Runtime
from worker.schema.models import Confirmation, table_of
from worker.schema.states import SENDING

# A row far back in line looks again after this many windows at the latest: the line may be shorter.
_MOST_WINDOWS = 10
_WITHOUT_API = timedelta(seconds=60)
_TABLE = table_of(Confirmation)
# Built once, since to build a statement costs more than to run it.
_IDS: Final = bindparam("ids", expanding=True, type_=String)
_ROWS: Final = select(Confirmation).where(col(Confirmation.id).in_(_IDS))
_WAITING: Final = _ROWS.where(leases.available(_TABLE)).order_by(
    col(Confirmation.provider), col(Confirmation.action), col(Confirmation.id)
)
_PUT_OFF: Final = (
    update(_TABLE)
    .where(
        _TABLE.c.id == bindparam("row", type_=String),
        _TABLE.c.lease_until.is_(None),
        _TABLE.c.wake_at.is_not(None),
    )
    .values(wake_at=bindparam("until", type_=UtcTime))
)


def take(runtime: Runtime, ids: Sequence[str], call_of: Mapping[str, str]) -> list[Task]:
    """Pay for a call about each of the rows, or about one whose turn it is before; claim those.

    Fewer, or none, where rows are in hand, over or not due, or no call can be paid.
    """
    with runtime.database.transaction() as session:
        bound = {**leases.times(runtime.database.now(session)), "ids": list(ids)}
        rows = session.exec(_WAITING, params=bound).all()
        return [
            task
            for (provider, action), line in groupby(rows, attrgetter("provider", "action"))
            for task in _take(runtime, session, provider, call_of[action], list(line))
        ]


def _take(
    runtime: Runtime, session: Session, provider: str, call: str, rows: Sequence[Confirmation]
) -> list[Task]:
    """For rows that stand in one line."""
    api = runtime.integrations.apis.get(provider)
    if api is None:
        for row in rows:
            _put_off(session, row, runtime.database.now(session) + _WITHOUT_API)
        return []
    budget_class = api.budget_of(call)
    chosen = _pay(runtime, session, api, budget_class, rows)
    known = session.exec(
        _ROWS,
        params={"ids": [each.id for each in chosen]},
        execution_options={"populate_existing": True},
    )
    taken = {row.id: row for row in known}
    standings = orders.standings(session, provider, [row.order_id for row in taken.values()])
    session.expunge_all()
    return [
        Task(
            runtime,
            api,
            budget_class,
            taken[claimed.id],
            claimed,
            standings.get(taken[claimed.id].order_id),
        )
        for claimed in chosen
    ]


def _pay(
    runtime: Runtime,
    session: Session,
    api: Api,
    budget_class: str,
    rows: Sequence[Confirmation],
) -> list[leases.Claim]:
    """Claim as many rows of the line as ``rows`` has, as far as the budget goes."""
    limit = api.limit(budget_class)
    budget = call_budgets.lock(session, budget_key(rows[0].provider, budget_class))
    now = runtime.database.now(session)  # a call is counted when it is made: not before a wait
    affordable = min(call_budgets.room(budget, limit, now), len(rows))
    heads = fair_queue.line(session, rows, now)[:affordable] if affordable else []
    won = leases.claim(
        session, _TABLE, heads, now=now, lease=CALL_LEASE, together=True,
        state=SENDING, asked_since=fair_queue.ASKED_SINCE,
    ) if heads else []  # fmt: skip
    if won:
        call_budgets.debit(budget, now, len(won))
    for row in rows[len(heads) :]:
        if call_budgets.available_at(budget, limit, now) > now:
            place = fair_queue.ahead(session, row, most=_MOST_WINDOWS * limit)
            _put_off(session, row, call_budgets.available_at(budget, limit, now, ahead=place))
        else:
            _put_off(session, row, now + fair_queue.MOMENT)
    session.flush()
    return won


def _put_off(session: Session, row: Confirmation, until: datetime) -> None:
    """Nobody's row, not before ``until``: the sweep need not look at it until then."""
    session.connection().execute(_PUT_OFF, {"row": row.id, "until": until})
