"""Whose turn it is when more rows want a call than its budget pays for.

Whoever wakes, a call that can be paid goes to the first in line: to orders that we know to be ours
before those that only a webhook told of, and to older rows before newer ones, so that however many
events somebody forges, they delay honest ones at most. One answer settles every row of its order
(see :func:`siblings`), and nobody asks about an order again in the same moment, so that a flood
about one order costs a few calls.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import ColumnElement, and_, func, literal, or_, select
from sqlmodel import Session

from worker import leases
from worker.leases import Claim
from worker.models import SENDING, Confirmation, Order, table_of

# How long an answer about an order is as good as a new one.
MOMENT: Final = timedelta(seconds=3)
# How far back in line it is looked for those who go first; whoever wakes is looked at anyway.
MOST_CANDIDATES: Final = 200
# What one answer settles beside the row that was asked about; the next answer does the rest.
MOST_SIBLINGS: Final = 50
_TABLE = table_of(Confirmation)
_ORDERS = table_of(Order)


def is_waiting(session: Session, row: Confirmation, now: datetime) -> bool:
    """Whether the row is due and in nobody's hand."""
    waits = select(_TABLE.c.id).where(_TABLE.c.id == row.id, leases.available(_TABLE, now))
    return session.connection().execute(waits).first() is not None


def first(session: Session, row: Confirmation, now: datetime) -> str | None:
    """The first in the line that ``row`` stands in; None if each is about to have its answer."""
    # An order's oldest row stands in line for all of them. Each of these statements reads what
    # waits at most once, whatever the database knows of its size: a flood must not cost its square.
    oldest = func.min(_TABLE.c.id)
    waiting = (
        select(_TABLE.c.order_id, oldest.label("head"))
        .where(*_same_line(row), leases.available(_TABLE, now))
        .group_by(_TABLE.c.order_id)
        .order_by(oldest)
        .limit(MOST_CANDIDATES)
    )
    heads = {each.order_id: each.head for each in session.connection().execute(waiting)}
    heads.setdefault(row.order_id, row.id)
    ours = _ours(session, row.provider, heads)
    asked = session.connection().scalars(
        select(_TABLE.c.order_id).where(
            *_same_line(row), _TABLE.c.order_id.in_(heads), _asked_just_now(now)
        )
    )
    free = heads.keys() - set(asked)
    return min(((order not in ours, heads[order]) for order in free), default=(False, None))[1]


def ahead(session: Session, row: Confirmation, *, most: int) -> int:
    """How many orders have their turn before the row's, counted up to ``most``."""
    if _ours(session, row.provider, [row.order_id]):
        return 0
    older = (
        select(_TABLE.c.order_id)
        .where(
            *_same_line(row),
            _TABLE.c.id < row.id,
            _TABLE.c.order_id != row.order_id,
            _TABLE.c.wake_at.is_not(None),
        )
        .distinct()
        .limit(most)
        .subquery()
    )
    return session.connection().scalar(select(func.count()).select_from(older)) or 0


def siblings(
    session: Session, row: Confirmation, *, now: datetime, lease: timedelta
) -> list[tuple[Confirmation, Claim]]:
    """The other rows that wait for an answer about the row's order, taken in hand."""
    waiting = (
        select(_TABLE.c.id)
        .where(
            *_same_line(row),
            _TABLE.c.order_id == row.order_id,
            _TABLE.c.id != row.id,
            leases.available(_TABLE, now),
        )
        .order_by(_TABLE.c.id)
        .limit(MOST_SIBLINGS)
    )
    ids = list(session.connection().scalars(waiting))
    claims = leases.claim(
        session, _TABLE, ids, now=now, lease=lease, state=SENDING,
        asked_since=asked_since(now),
    )  # fmt: skip
    return [(session.get_one(Confirmation, claimed.id), claimed) for claimed in claims]


def asked_since(now: datetime) -> ColumnElement[datetime]:
    """What a claim writes as ``asked_since``: the first claim's time stays."""
    since = _TABLE.c.asked_since
    return func.coalesce(since, literal(now, since.type))


def _ours(session: Session, provider: str, order_ids: Iterable[str]) -> set[str]:
    """Those of the orders that the provider itself told us of: no webhook has these columns."""
    known = select(_ORDERS.c.order_id).where(
        _ORDERS.c.provider == provider,
        _ORDERS.c.order_id.in_(order_ids),
        or_(_ORDERS.c.price.is_not(None), _ORDERS.c.expires_at.is_not(None)),
    )
    return set(session.connection().scalars(known))


def _same_line(row: Confirmation) -> tuple[ColumnElement[bool], ColumnElement[bool]]:
    return (_TABLE.c.provider == row.provider, _TABLE.c.action == row.action)


def _asked_just_now(now: datetime) -> ColumnElement[bool]:
    """Rows that are being asked about, were a moment ago, or will be again in a moment.

    Times further off were written under a clock that has jumped, or about something else.
    """
    return or_(
        _TABLE.c.lease_until.between(now, now + leases.LONGEST_LEASE),
        and_(
            _TABLE.c.wake_at.is_not(None),
            _TABLE.c.attempt > 0,
            _TABLE.c.next_attempt_at.between(now, now + MOMENT),
        ),
        _TABLE.c.done_at.between(now - MOMENT, now + MOMENT),
    )
