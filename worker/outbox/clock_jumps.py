"""Notices that the clock was set, and repairs what was written under the other time.

When work is due is a time in its row, so a clock that is set back leaves rows that wait for hours.
A clock that is set ahead makes everything look old enough to be erased. Every sweep writes its
time; the next one compares it with its own.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final

import structlog
from sqlalchemy import bindparam, update
from sqlmodel import Session

from receiver.database import heartbeats
from receiver.database.engine import UtcTime
from receiver.database.heartbeats import Heartbeat
from receiver.inbox.store import INBOX
from worker.schema.models import (
    Budget,
    Confirmation,
    Delivery,
    DestinationState,
    Reconciliation,
    table_of,
)

# Two sweeps may be this far apart: codecatch was stopped, or the machine slept.
MAX_GAP: Final = timedelta(hours=1)
# A correction of the clock by less than this delays work by less than this.
MAX_SET_BACK: Final = timedelta(minutes=1)
# After a longer gap nothing is given up or erased for as long as the gap was, at most this long:
# the clock may be wrong, and somebody may set it right.
LONGEST_HOLD: Final = timedelta(days=1)
_SWEPT_AT, _HELD_UNTIL = "clock", "clock-held-until"
_BEATS = table_of(Heartbeat)
_STEADY: Final = (
    update(_BEATS)
    .where(
        _BEATS.c.part == _SWEPT_AT,
        _BEATS.c.seen_at >= bindparam("earliest", type_=UtcTime),
        _BEATS.c.seen_at <= bindparam("latest", type_=UtcTime),
    )
    .values(seen_at=bindparam("now", type_=UtcTime))
)
_WORK: Final = (INBOX, table_of(Confirmation), table_of(Delivery), table_of(Reconciliation))
_PAUSES: Final = (table_of(DestinationState), table_of(Budget))
_CONFIRMATIONS: Final = table_of(Confirmation)
_log = structlog.get_logger(__name__)


def note(session: Session, now: datetime) -> None:
    """Record ``now``; after a jump, make all waiting work due, or hold what cannot be undone.

    Costs one statement while the clock is steady.
    """
    steady = {"now": now, "earliest": now - MAX_GAP, "latest": now + MAX_SET_BACK}
    if session.connection().execute(_STEADY, steady).rowcount:
        return
    last = heartbeats.seen(session, _SWEPT_AT)
    heartbeats.beat(session, _SWEPT_AT, now)
    if last is None:
        return
    if last > now:
        _make_due(session, now)
    else:
        heartbeats.beat(session, _HELD_UNTIL, now + min(now - last, LONGEST_HOLD))
    _log.warning("clock.jumped", seconds=round((now - last).total_seconds()))


def is_steady(session: Session, now: datetime) -> bool:
    """Whether something may be given up or erased because it is old.

    False during a hold, and without a sweep in the last hour: ``now`` cannot be compared then.
    """
    last = heartbeats.seen(session, _SWEPT_AT)
    known = last is not None and now - MAX_GAP <= last <= now + MAX_SET_BACK
    return known and held_until(session, now) is None


def held_until(session: Session, now: datetime) -> datetime | None:
    """The end of the hold after a jump; None if there is none."""
    until = heartbeats.seen(session, _HELD_UNTIL)
    # One that is further ahead was written under a clock that has been set back since.
    return until if until is not None and now < until <= now + LONGEST_HOLD else None


def _make_due(session: Session, now: datetime) -> None:
    """Make all waiting rows due: those that have to wait are postponed again."""
    connection = session.connection()
    for table in _WORK:
        waiting = table.c.lease_until.is_(None) & (table.c.wake_at > now)
        connection.execute(update(table).where(waiting).values(next_attempt_at=now, wake_at=now))
    for table in _PAUSES:
        paused = table.c.blocked_until > now
        connection.execute(update(table).where(paused).values(blocked_until=None))
    asked = _CONFIRMATIONS.c.asked_since > now
    connection.execute(update(_CONFIRMATIONS).where(asked).values(asked_since=now))
