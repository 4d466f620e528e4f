"""Rows that are not sent now: postponed or expired.

Each change to a destination's rows is one statement, so that a long queue costs no more than a
short one.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from functools import cache

from sqlalchemy import ColumnElement, String, Update, and_, bindparam, or_, select, update
from sqlmodel import Session

from receiver.database.engine import UtcTime
from receiver.events import SmsReceived
from worker.schema.models import Delivery, table_of
from worker.schema.states import DEAD, OPERATORS

# Only this many rows are woken on time: the dispatcher they wake claims the others as well.
_WAKE_FIRST = 4
# How much later the sweep wakes the others, if no dispatcher has claimed them.
_REST = timedelta(seconds=30)
# Rows due for the sweep within this time are postponed; the others were postponed before.
_SOON = timedelta(seconds=5)
# How long the rows of a destination that sends nothing are postponed; enabling it wakes them.
RECHECK = timedelta(minutes=10)
# Rows of a disabled destination expire at this age; older codes are of no use.
MAX_AGE = timedelta(hours=24)
_TABLE = table_of(Delivery)
_UNCLAIMED = and_(_TABLE.c.wake_at.is_not(None), _TABLE.c.lease_until.is_(None))

CODES: ColumnElement[bool] = _TABLE.c.type == SmsReceived.type
NOTICES: ColumnElement[bool] = _TABLE.c.type == OPERATORS
OTHERS: ColumnElement[bool] = _TABLE.c.type != OPERATORS
ANY: ColumnElement[bool] = _TABLE.c.type.is_not(None)


def postpone(
    session: Session,
    destination: str,
    now: datetime,
    until: datetime,
    which: ColumnElement[bool] = ANY,
) -> None:
    """Keep the sweep from waking the destination's unclaimed rows before ``until``."""
    bound = {
        "waiting_for": destination, "until": until, "rest": until + _REST, "soon": now + _SOON,
    }  # fmt: skip
    for statement in _postponements(which):
        session.connection().execute(statement, bound)


@cache
def _postponements(which: ColumnElement[bool]) -> tuple[Update, Update]:
    until, rest, soon = (bindparam(name, type_=UtcTime) for name in ("until", "rest", "soon"))
    of_one = and_(_TABLE.c.destination == bindparam("waiting_for", type_=String), _UNCLAIMED, which)
    due = or_(_TABLE.c.attempt == 0, _TABLE.c.next_attempt_at <= until)
    first = select(_TABLE.c.id).where(of_one, due).order_by(_TABLE.c.id).limit(_WAKE_FIRST)
    return (
        update(_TABLE).where(of_one, _TABLE.c.wake_at <= soon).values(wake_at=rest),
        update(_TABLE).where(_TABLE.c.id.in_(first)).values(wake_at=until),
    )


def expire(session: Session, destination: str, older_than: datetime, reason: str) -> None:
    """Mark unclaimed rows created before ``older_than`` as dead."""
    session.connection().execute(
        update(_TABLE)
        .where(waiting(destination), _TABLE.c.created_at < older_than)
        .values(state=DEAD, error=reason, wake_at=None)
    )


def waiting(destination: str) -> ColumnElement[bool]:
    """The destination's rows that wait and are in nobody's hands."""
    return and_(_TABLE.c.destination == destination, _UNCLAIMED)


def note(session: Session, destination: str, reason: str) -> bool:
    """Write why its rows wait, where that is new; whether it was, for any row."""
    wrote = session.connection().execute(
        update(_TABLE)
        .where(waiting(destination), _TABLE.c.error.is_distinct_from(reason))
        .values(error=reason)
    )
    return wrote.rowcount > 0
