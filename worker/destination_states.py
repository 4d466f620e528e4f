"""How each destination fares: whether it is told anything, and how soon.

A destination's row is also the lock under which its messages are claimed and recorded.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Final

from sqlalchemy import String, bindparam, sql, update
from sqlmodel import Session, select

from receiver.database import insert_once
from worker.models import Delivery, DestinationState, table_of

_STATES = table_of(DestinationState)
_DELIVERIES = table_of(Delivery)
# Built once, since to build a statement costs more than to run it.
_OF_NAME: Final = _STATES.c.name == bindparam("state_of", type_=String)
_LOCKED: Final = sql.select(_STATES).where(_OF_NAME).with_for_update()
_CHANGED: Final = update(_STATES).where(_OF_NAME)


@dataclass(slots=True)
class Locked:
    """The columns of a destination's row while it is locked: see :class:`DestinationState`."""

    name: str
    disabled_at: datetime | None
    reason: str | None
    failures_in_row: int
    spent_until: datetime | None
    blocked_until: datetime | None
    awaited_until: datetime | None


def of(session: Session) -> dict[str, DestinationState]:
    """What is known of each destination that was ever told anything, or disabled."""
    return {row.name: row for row in session.exec(select(DestinationState))}


def lock(session: Session, name: str) -> Locked:
    """The destination's row, held by this transaction until it ends; :func:`save` its changes."""
    found = session.connection().execute(_LOCKED, {"state_of": name}).mappings().first()
    if found is None:
        insert_once(session, _STATES, {"name": name, "failures_in_row": 0})
        found = session.connection().execute(_LOCKED, {"state_of": name}).mappings().one()
    return Locked(**found)


def save(session: Session, state: Locked) -> None:
    """Write what was changed of a locked row."""
    session.connection().execute(_CHANGED, {"state_of": state.name, **asdict(state)})


def disable(session: Session, name: str, reason: str, now: datetime) -> bool:
    """Tell it nothing any more; whether that is news."""
    state = lock(session, name)
    if state.disabled_at is not None:
        return False
    state.disabled_at, state.reason = now, reason
    save(session, state)
    return True


def enable(session: Session, name: str, now: datetime) -> bool:
    """Tell it again, at once what waited for it; whether it was disabled.

    What waited is due from now on: the next sweep wakes it, whoever called this need not.
    """
    state = lock(session, name)
    was_disabled = state.disabled_at is not None
    state.disabled_at = state.reason = state.blocked_until = None
    state.failures_in_row = 0
    save(session, state)
    session.connection().execute(
        update(_DELIVERIES)
        .where(
            _DELIVERIES.c.destination == name,
            _DELIVERIES.c.wake_at.is_not(None),
            _DELIVERIES.c.lease_until.is_(None),
        )
        .values(wake_at=now, next_attempt_at=now)
    )
    return was_disabled
