"""Which rows go first when more rows need a call than its budget allows.

Rows of one provider and action wait in one queue. Whichever row wakes, a call goes to the head of
the queue: orders that the provider's API reported come before those that only a webhook reported,
and older rows before newer ones. So forged events, however many, can only delay genuine ones. One
answer settles every row of its order (see :func:`claim_siblings`), and no order is asked about
again while its last answer is fresh, so a flood of events about one order costs few calls.
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
ANSWER_FRESH: Final = timedelta(seconds=3)
# How many rows of a queue are ranked; the rows that woke are ranked in any case.
MAX_CANDIDATES: Final = 200
# How many other rows one answer settles; the next answer settles the rest.
MAX_SIBLINGS: Final = 50
_TABLE = table_of(Confirmation)
_ORDERS = table_of(Order)
# What a claim writes to ``asked_since``: the time of the first claim stays.
ASKED_SINCE: Final = func.coalesce(_TABLE.c.asked_since, leases.NOW)
_ROW: Final = bindparam("row", type_=String)
_ORDER: Final = bindparam("order", type_=String)
_SOME_ORDERS: Final = bindparam("orders", expanding=True, type_=String)
_FRESH_SINCE: Final = bindparam("fresh_since", type_=UtcTime)
_FRESH_UNTIL: Final = bindparam("fresh_until", type_=UtcTime)
_LIMIT: Final = bindparam("limit", type_=Integer)
_SAME_QUEUE: Final = and_(
    _TABLE.c.provider == bindparam("provider", type_=String),
    _TABLE.c.action == bindparam("action", type_=String),
)
# The oldest row of an order queues for all of them. Each of these statements reads the queued rows
# at most once, whatever the database's statistics: the cost of a flood must not be quadratic.
_OLDEST: Final = func.min(_TABLE.c.id)
_HEADS: Final = (
    select(_TABLE.c.order_id, _OLDEST.label("head"))
    .where(_SAME_QUEUE, leases.claimable(_TABLE))
    .group_by(_TABLE.c.order_id)
    .order_by(_OLDEST)
    .limit(_LIMIT)
)
# Orders that are being asked about, were just now, or will be again soon.
_ASKED: Final = select(_TABLE.c.order_id).where(
    _SAME_QUEUE,
    _TABLE.c.order_id.in_(_SOME_ORDERS),
    or_(
        leases.held(_TABLE),
        and_(
            _TABLE.c.wake_at.is_not(None),
            _TABLE.c.attempt > 0,
            _TABLE.c.next_attempt_at.between(leases.NOW, _FRESH_UNTIL),
        ),
        _TABLE.c.done_at.between(_FRESH_SINCE, _FRESH_UNTIL),
    ),
)
_BOUGHT: Final = select(_ORDERS.c.order_id).where(
    _ORDERS.c.provider == bindparam("provider", type_=String),
    _ORDERS.c.order_id.in_(_SOME_ORDERS),
    or_(_ORDERS.c.price.is_not(None), _ORDERS.c.expires_at.is_not(None)),
)
_AHEAD: Final = select(func.count()).select_from(
    select(_TABLE.c.order_id)
    .where(
        _SAME_QUEUE,
        _TABLE.c.id < _ROW,
        _TABLE.c.order_id != _ORDER,
        _TABLE.c.wake_at.is_not(None),
    )
    .distinct()
    .limit(_LIMIT)
    .subquery()
)
_SIBLINGS: Final = (
    select(_TABLE.c.id)
    .where(
        _SAME_QUEUE,
        _TABLE.c.order_id == _ORDER,
        _TABLE.c.id != _ROW,
        leases.claimable(_TABLE),
    )
    .order_by(_TABLE.c.id)
    .limit(_LIMIT)
)


def next_rows(session: Session, rows: Sequence[Confirmation], now: datetime) -> list[str]:
    """The ids of the rows to claim next in the queue of ``rows``: one per order, the head first.

    ``rows`` have one provider and one action. Orders whose answer is fresh or on its way are left
    out.
    """
    of_queue = {"provider": rows[0].provider, "action": rows[0].action}
    bound = {**leases.times(now), **of_queue, "limit": MAX_CANDIDATES}
    heads = {each.order_id: each.head for each in session.connection().execute(_HEADS, bound)}
    for row in rows:
        heads.setdefault(row.order_id, row.id)
    orders = list(heads)
    bought = _bought(session, rows[0].provider, orders)
    fresh = {"fresh_since": now - ANSWER_FRESH, "fresh_until": now + ANSWER_FRESH}
    asked = set(session.connection().scalars(_ASKED, {**bound, **fresh, "orders": orders}))
    free = [(order not in bought, head) for order, head in heads.items() if order not in asked]
    return [head for _, head in sorted(free)]


def orders_ahead(session: Session, row: Confirmation, *, limit: int) -> int:
    """How many orders go before the row's, counted up to ``limit``."""
    if _bought(session, row.provider, [row.order_id]):
        return 0
    bound = {"provider": row.provider, "action": row.action, "order": row.order_id}
    counted = session.connection().scalar(_AHEAD, {**bound, "row": row.id, "limit": limit})
    return counted or 0


def claim_siblings(
    session: Session, row: Confirmation, *, now: datetime, lease: timedelta
) -> list[tuple[Confirmation, Claim]]:
    """Claim the other rows that wait for an answer about the row's order."""
    of_order = {"provider": row.provider, "action": row.action, "order": row.order_id}
    bound = {**leases.times(now), **of_order, "row": row.id, "limit": MAX_SIBLINGS}
    ids = list(session.connection().scalars(_SIBLINGS, bound))
    claims = leases.claim(
        session, _TABLE, ids, now=now, lease=lease, state=SENDING, asked_since=ASKED_SINCE
    )
    return [(session.get_one(Confirmation, claim.id), claim) for claim in claims]


def _bought(session: Session, provider: str, order_ids: Sequence[str]) -> set[str]:
    """Those of the orders that the provider's API reported: no webhook sets these columns."""
    bound = {"provider": provider, "orders": order_ids}
    return set(session.connection().scalars(_BOUGHT, bound))
