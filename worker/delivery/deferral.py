"""Rows that are not sent now: postponed, moved to a fallback, or expired.

Each change to a destination's rows is one statement, so that a long queue costs no more than a
short one.
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

# Only this many rows are woken on time: the dispatcher they wake claims the others as well.
_WAKE_FIRST = 4
# How much later the sweep wakes the others, if no dispatcher has claimed them.
_REST = timedelta(seconds=30)
# Rows due for the sweep within this time are postponed; the others were postponed before.
_SOON = timedelta(seconds=5)
# Rows of a disabled destination expire at this age; older codes are of no use.
MAX_AGE = timedelta(hours=24)
# Rows that one transaction moves to a fallback.
_BATCH = 500
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
    waiting = and_(
        _TABLE.c.destination == bindparam("waiting_for", type_=String), _UNCLAIMED, which
    )
    due = or_(_TABLE.c.attempt == 0, _TABLE.c.next_attempt_at <= until)
    first = select(_TABLE.c.id).where(waiting, due).order_by(_TABLE.c.id).limit(_WAKE_FIRST)
    return (
        update(_TABLE).where(waiting, _TABLE.c.wake_at <= soon).values(wake_at=rest),
        update(_TABLE).where(_TABLE.c.id.in_(first)).values(wake_at=until),
    )


def expire(session: Session, destination: str, older_than: datetime, reason: str) -> None:
    """Mark unclaimed rows created before ``older_than`` as dead."""
    session.connection().execute(
        update(_TABLE)
        .where(_waiting(destination), _TABLE.c.created_at < older_than)
        .values(state=DEAD, error=reason, wake_at=None)
    )


def move_to_fallback(
    planner: Planner,
    destination: str,
    fallback: str,
    reason: str,
    which: ColumnElement[bool] = ANY,
) -> bool:
    """Move the destination's oldest rows to its fallback; whether there may be more."""
    session = planner.session
    chosen = select(_TABLE).where(_waiting(destination), which, _TABLE.c.recipient.is_(None))
    chosen = chosen.order_by(_TABLE.c.id).limit(_BATCH).with_for_update(skip_locked=True)
    rows = [dict(row) for row in session.connection().execute(chosen).mappings()]
    if not rows:
        return False
    plan_fallback_deliveries(planner, fallback, rows)
    session.connection().execute(
        update(_TABLE)
        .where(_TABLE.c.id.in_([row["id"] for row in rows]))
        .values(state=DEAD, error=f"{reason}; sent to {fallback} instead", wake_at=None)
    )
    return len(rows) == _BATCH


def plan_fallback_deliveries(
    planner: Planner, fallback: str, rows: Sequence[dict[str, Any]]
) -> None:
    """Plan deliveries to ``fallback`` in place of ``rows``, except those that it has already.

    The unique key also ends a cycle of fallbacks: each destination gets a delivery once.
    """
    if not rows:
        return
    copies = sorted((_copy(planner, fallback, row) for row in rows), key=lambda each: each["key"])
    added = bulk.insert_new(planner.session.connection(), _TABLE, copies)
    planner.deliveries.setdefault(fallback, []).extend(sorted(added))


def _copy(planner: Planner, fallback: str, row: dict[str, Any]) -> dict[str, Any]:
    copied = ("type", "event_id", "code_id", "detail", "unsure", "created_at", "stale_at")
    return {
        **{name: row[name] for name in copied},
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
    return and_(_TABLE.c.destination == destination, _UNCLAIMED)
