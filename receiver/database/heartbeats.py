"""Heartbeats: each kind of worker process writes one from within a task.

A fresh heartbeat shows that the clock, the broker, the worker and the database all worked within
the last seconds, which no check from outside could show.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from sqlalchemy import Table, bindparam, update
from sqlmodel import Field, Session, SQLModel

from receiver.database.engine import UtcTime, insert_once

# Heartbeats are written about every second; a part that is silent for this long is down.
SILENCE = timedelta(seconds=15)
# The row that probes write: no part's.
PROBE = "probe"


class Heartbeat(SQLModel, table=True):
    """When a kind of process (``worker``, ``sender``) last ran its task."""

    __tablename__ = "heartbeats"

    part: str = Field(primary_key=True)
    seen_at: datetime = Field(sa_type=UtcTime)


_TABLE: Table = Heartbeat.__table__  # type: ignore[attr-defined]
# Built once: building a statement costs more than running it.
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
    """The time of ``part``'s last heartbeat; None if there is none."""
    row = session.get(Heartbeat, part)
    return None if row is None else row.seen_at


def alive(session: Session, part: str, now: datetime) -> bool:
    """Whether ``part``'s last heartbeat is fresh; one too far in the future does not count."""
    last = seen(session, part)
    return last is not None and abs(now - last) < SILENCE
