"""Rows that are not told now: put off until they may be, given to a fallback, or given up.

Whatever is written here is written to all of a destination's rows in one statement, so that a
long queue costs no more than a short one.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from functools import cache
from typing import Any

from sqlalchemy import ColumnElement, String, Update, and_, bindparam, or_, select, update
from sqlmodel import Session
from ulid import ULID

from receiver.database import bulk
from receiver.database.engine import UtcTime
from receiver.database.followup import GRACE
from receiver.events import SmsReceived
from worker.outbox.planner import Planner
from worker.schema.models import Delivery, table_of
from worker.schema.states import DEAD, OPERATORS, PENDING

# Some are woken when it is time: whoever they wake takes the others along.
_HERALDS = 4
_REST = timedelta(seconds=30)
# What the sweep would look at soon; everything else was put off before.
_SOON = timedelta(seconds=5)
# A disabled destination keeps its rows so long; older codes are of no use to anybody.
LONGEST_WAIT = timedelta(hours=24)
# Rows that are given to a fallback in one transaction.
_BATCH = 500
_TABLE = table_of(Delivery)
_IN_NO_HAND = and_(_TABLE.c.wake_at.is_not(None), _TABLE.c.lease_until.is_(None))

CODES: ColumnElement[bool] = _TABLE.c.type == SmsReceived.type
NOTICES: ColumnElement[bool] = _TABLE.c.type == OPERATORS
OTHERS: ColumnElement[bool] = _TABLE.c.type != OPERATORS
ANY: ColumnElement[bool] = _TABLE.c.type.is_not(None)


def put_off(
    session: Session,
    destination: str,
    now: datetime,
    until: datetime,
    which: ColumnElement[bool] = ANY,
) -> None:
    """Let the sweep leave the destination's rows alone until then."""
    bound = {
        "waiting_for": destination, "until": until, "rest": until + _REST, "soon": now + _SOON,
    }  # fmt: skip
    for statement in _put_off(which):
        session.connection().execute(statement, bound)


@cache  # to build a statement costs more than to run it; there are few conditions
def _put_off(which: ColumnElement[bool]) -> tuple[Update, Update]:
    until, rest, soon = (bindparam(name, type_=UtcTime) for name in ("until", "rest", "soon"))
    waiting = and_(
        _TABLE.c.destination == bindparam("waiting_for", type_=String), _IN_NO_HAND, which
    )
    due = or_(_TABLE.c.attempt == 0, _TABLE.c.next_attempt_at <= until)
    heralds = select(_TABLE.c.id).where(waiting, due).order_by(_TABLE.c.id).limit(_HERALDS)
    return (
        update(_TABLE).where(waiting, _TABLE.c.wake_at <= soon).values(wake_at=rest),
        update(_TABLE).where(_TABLE.c.id.in_(heralds)).values(wake_at=until),
    )


def give_up(session: Session, destination: str, older_than: datetime, reason: str) -> None:
    """End the rows that have waited since before ``older_than``."""
    session.connection().execute(
        update(_TABLE)
        .where(_waiting(destination), _TABLE.c.created_at < older_than)
        .values(state=DEAD, error=reason, wake_at=None)
    )


def divert(
    planner: Planner,
    destination: str,
    fallback: str,
    reason: str,
    which: ColumnElement[bool] = ANY,
) -> bool:
    """Give the destination's oldest rows to its fallback; whether there may be more."""
    session = planner.session
    chosen = select(_TABLE).where(_waiting(destination), which, _TABLE.c.recipient.is_(None))
    chosen = chosen.order_by(_TABLE.c.id).limit(_BATCH).with_for_update(skip_locked=True)
    rows = [dict(row) for row in session.connection().execute(chosen).mappings()]
    if not rows:
        return False
    tell_instead(planner, fallback, rows)
    session.connection().execute(
        update(_TABLE)
        .where(_TABLE.c.id.in_([row["id"] for row in rows]))
        .values(state=DEAD, error=f"{reason}; {fallback} is told instead", wake_at=None)
    )
    return len(rows) == _BATCH


def tell_instead(planner: Planner, fallback: str, rows: Sequence[dict[str, Any]]) -> None:
    """Plan to tell ``fallback`` what ``rows`` would have told, unless it is told so already.

    That it is told each thing once is what ends a circle of fallbacks, too.
    """
    if not rows:
        return
    copies = sorted((_copy(planner, fallback, row) for row in rows), key=lambda each: each["key"])
    added = bulk.insert_new(planner.session.connection(), _TABLE, copies)
    planner.deliveries.setdefault(fallback, []).extend(sorted(added))


def _copy(planner: Planner, fallback: str, row: dict[str, Any]) -> dict[str, Any]:
    kept = ("type", "event_id", "code_id", "detail", "unsure", "created_at", "stale_at")
    return {
        **{name: row[name] for name in kept},
        "id": str(ULID()),
        "key": fallback + row["key"].removeprefix(row["destination"]),
        "destination": fallback,
        "state": PENDING,
        "failures": 0,
        "attempt": 0,
        "vanished": 0,
        "next_attempt_at": planner.now,
        "wake_at": planner.now + GRACE,
    }


def _waiting(destination: str) -> ColumnElement[bool]:
    """The destination's rows that have something left to do, and are in nobody's hand."""
    return and_(_TABLE.c.destination == destination, _IN_NO_HAND)
