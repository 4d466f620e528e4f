"""Whose turn it is when more rows want a call than its budget pays for.

Whoever wakes, a call that can be paid goes to the first in line: to orders that we know to be ours
before those that only a webhook told of, and to older rows before newer ones, so that however many
events somebody forges, they delay honest ones at most. One answer settles every row of its order
(see :func:`siblings`), and nobody asks about an order again in the same moment, so that a flood
about one order costs a few calls.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import Integer, String, and_, bindparam, func, or_, select
from sqlmodel import Session

from receiver.database.engine import UtcTime
from worker.outbox import leases
from worker.outbox.leases import Claim
from worker.schema.models import Confirmation, Order, table_of
from worker.schema.states import SENDING

# How long an answer about an order is as good as a new one.
MOMENT: Final = timedelta(seconds=3)
# How far back in line it is looked for those who go first; whoever wakes is looked at anyway.
MOST_CANDIDATES: Final = 200
# What one answer settles beside the row that was asked about; the next answer does the rest.
MOST_SIBLINGS: Final = 50
_TABLE = table_of(Confirmation)
_ORDERS = table_of(Order)
# What a claim writes as ``asked_since``: the first claim's time stays.
ASKED_SINCE: Final = func.coalesce(_TABLE.c.asked_since, leases.NOW)

# The statements are built once, since to build one costs more than to run it.
_ROW: Final = bindparam("row", type_=String)
_ORDER: Final = bindparam("order", type_=String)
_SOME_ORDERS: Final = bindparam("orders", expanding=True, type_=String)
_JUST_NOW: Final = bindparam("just_now", type_=UtcTime)
_SOON: Final = bindparam("soon", type_=UtcTime)
_SAME_LINE: Final = and_(
    _TABLE.c.provider == bindparam("provider", type_=String),
    _TABLE.c.action == bindparam("action", type_=String),
)
# An order's oldest row stands in line for all of them. Each of these statements reads what
# waits at most once, whatever the database knows of its size: a flood must not cost its square.
_OLDEST: Final = func.min(_TABLE.c.id)
_HEADS: Final = (
    select(_TABLE.c.order_id, _OLDEST.label("head"))
    .where(_SAME_LINE, leases.available(_TABLE))
    .group_by(_TABLE.c.order_id)
    .order_by(_OLDEST)
    .limit(bindparam("most", type_=Integer))
)
# Rows that are being asked about, were a moment ago, or will be again in a moment. Times further
# off were written under a clock that has jumped, or about something else.
_ASKED: Final = select(_TABLE.c.order_id).where(
    _SAME_LINE,
    _TABLE.c.order_id.in_(_SOME_ORDERS),
    or_(
        _TABLE.c.lease_until.between(leases.NOW, leases.AHEAD),
        and_(
            _TABLE.c.wake_at.is_not(None),
            _TABLE.c.attempt > 0,
            _TABLE.c.next_attempt_at.between(leases.NOW, _SOON),
        ),
        _TABLE.c.done_at.between(_JUST_NOW, _SOON),
    ),
)
_OURS: Final = select(_ORDERS.c.order_id).where(
    _ORDERS.c.provider == bindparam("provider", type_=String),
    _ORDERS.c.order_id.in_(_SOME_ORDERS),
    or_(_ORDERS.c.price.is_not(None), _ORDERS.c.expires_at.is_not(None)),
)
_AHEAD: Final = select(func.count()).select_from(
    select(_TABLE.c.order_id)
    .where(
        _SAME_LINE,
        _TABLE.c.id < _ROW,
        _TABLE.c.order_id != _ORDER,
        _TABLE.c.wake_at.is_not(None),
    )
    .distinct()
    .limit(bindparam("most", type_=Integer))
    .subquery()
)
_SIBLINGS: Final = (
    select(_TABLE.c.id)
    .where(
        _SAME_LINE,
        _TABLE.c.order_id == _ORDER,
        _TABLE.c.id != _ROW,
        leases.available(_TABLE),
    )
    .order_by(_TABLE.c.id)
    .limit(bindparam("most", type_=Integer))
)


def line(session: Session, rows: Sequence[Confirmation], now: datetime) -> list[str]:
    """The line that ``rows``, of one provider and action, stand in: a row of each order.

    Without the orders that are about to have their answer.
    """
    of_line = {"provider": rows[0].provider, "action": rows[0].action}
    waiting = {**leases.times(now), **of_line, "most": MOST_CANDIDATES}
    heads = {each.order_id: each.head for each in session.connection().execute(_HEADS, waiting)}
    for row in rows:
        heads.setdefault(row.order_id, row.id)
    orders = list(heads)
    ours = _ours(session, rows[0].provider, orders)
    moment = {"just_now": now - MOMENT, "soon": now + MOMENT, "orders": orders}
    asked = set(session.connection().scalars(_ASKED, {**waiting, **moment}))
    free = [(order not in ours, head) for order, head in heads.items() if order not in asked]
    return [head for _, head in sorted(free)]


def ahead(session: Session, row: Confirmation, *, most: int) -> int:
    """How many orders have their turn before the row's, counted up to ``most``."""
    if _ours(session, row.provider, [row.order_id]):
        return 0
    bound = {"provider": row.provider, "action": row.action, "order": row.order_id}
    counted = session.connection().scalar(_AHEAD, {**bound, "row": row.id, "most": most})
    return counted or 0


def siblings(
    session: Session, row: Confirmation, *, now: datetime, lease: timedelta
) -> list[tuple[Confirmation, Claim]]:
    """The other rows that wait for an answer about the row's order, taken in hand."""
    bound = {"provider": row.provider, "action": row.action, "order": row.order_id}
    waiting = {**leases.times(now), **bound, "row": row.id, "most": MOST_SIBLINGS}
    ids = list(session.connection().scalars(_SIBLINGS, waiting))
    claims = leases.claim(
        session, _TABLE, ids, now=now, lease=lease, state=SENDING, asked_since=ASKED_SINCE
    )
    return [(session.get_one(Confirmation, claimed.id), claimed) for claimed in claims]


def _ours(session: Session, provider: str, order_ids: Sequence[str]) -> set[str]:
    """Those of the orders that the provider itself told us of: no webhook has these columns."""
    bound = {"provider": provider, "orders": order_ids}
    return set(session.connection().scalars(_OURS, bound))
