"""Signs of life: each kind of worker process writes its own from within a task.

A fresh sign means that the clock, the broker, the worker and the database all did their part
within the last seconds, which no check from outside could tell.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from sqlalchemy import Table, bindparam, update
from sqlmodel import Field, Session, SQLModel

from receiver.database.engine import UtcTime, insert_once

# Signs are written every second or so; a part that has been silent this long is away.
SILENCE = timedelta(seconds=15)


class Heartbeat(SQLModel, table=True):
    """When a kind of process (``worker``, ``sender``) last did a task."""

    __tablename__ = "heartbeats"

    part: str = Field(primary_key=True)
    seen_at: datetime = Field(sa_type=UtcTime)


_TABLE: Table = Heartbeat.__table__  # type: ignore[attr-defined]
# Built once: that costs more than to run it.
_BEAT = (
    update(_TABLE)
    .where(_TABLE.c.part == bindparam("its"))
    .values(seen_at=bindparam("now", type_=UtcTime))
)


def beat(session: Session, part: str, now: datetime) -> None:
    """Record that ``part`` is alive."""
    if not session.connection().execute(_BEAT, {"its": part, "now": now}).rowcount:
        insert_once(session, _TABLE, {"part": part, "seen_at": now})


def seen(session: Session, part: str) -> datetime | None:
    """When ``part`` last gave a sign of life, if it ever did."""
    row = session.get(Heartbeat, part)
    return None if row is None else row.seen_at


def alive(session: Session, part: str, now: datetime) -> bool:
    """Whether ``part`` gave a sign of life lately; one from the future is no such sign."""
    last = seen(session, part)
    return last is not None and abs(now - last) < SILENCE
