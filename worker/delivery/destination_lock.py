"""The state of one destination, and the row lock under which it is read and changed.

The destination's messages, too, are claimed and recorded only under this lock.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from typing import Final, Self

from sqlalchemy import String, bindparam, sql, update
from sqlmodel import Session

from receiver.database.engine import insert_once
from worker.configuration.destination_policy import DestinationPolicy
from worker.destinations.base import Destination
from worker.outbox import clock_jumps
from worker.outbox.planner import Planner
from worker.runtime.runtime import Runtime
from worker.schema.models import Delivery, DestinationState, table_of

_STATES = table_of(DestinationState)
_DELIVERIES = table_of(Delivery)


@dataclass(slots=True)
class LockedState:
    """The columns of a destination's locked row: see :class:`DestinationState`."""

    name: str
    disabled_at: datetime | None
    reason: str | None
    failures_in_row: int
    spent_until: datetime | None
    blocked_until: datetime | None
    foreign_since: datetime | None
    foreign_reported_at: datetime | None


_OF_NAME: Final = _STATES.c.name == bindparam("state_of", type_=String)
_READ: Final = sql.select(*(_STATES.c[name] for name in LockedState.__dataclass_fields__))
_LOCKED: Final = _READ.where(_OF_NAME).with_for_update()
_CHANGED: Final = update(_STATES).where(_OF_NAME)


def lock(session: Session, name: str) -> LockedState:
    """Lock the destination's row until the transaction ends; :func:`save` writes changes."""
    found = session.connection().execute(_LOCKED, {"state_of": name}).mappings().first()
    if found is None:
        insert_once(session, _STATES, {"name": name, "failures_in_row": 0})
        found = session.connection().execute(_LOCKED, {"state_of": name}).mappings().one()
    return LockedState(**found)


def save(session: Session, state: LockedState) -> None:
    """Write the changed columns of a locked row."""
    session.connection().execute(_CHANGED, {"state_of": state.name, **asdict(state)})


def disable(session: Session, name: str, reason: str, now: datetime) -> bool:
    """Disable a destination; whether it was enabled."""
    state = lock(session, name)
    if state.disabled_at is not None:
        return False
    state.disabled_at, state.reason = now, reason
    save(session, state)
    return True


def enable(session: Session, name: str, now: datetime) -> bool:
    """Enable a destination; whether it was disabled.

    Its waiting rows become due now, and the next sweep wakes them: the caller need not.
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


@dataclass(frozen=True, slots=True)
class LockedDestination:
    """A destination under its lock, in one transaction; call ``planner.wake`` after the commit."""

    runtime: Runtime
    planner: Planner
    destination: Destination
    state: LockedState

    @classmethod
    @contextmanager
    def open(cls, runtime: Runtime, destination: Destination) -> Iterator[Self]:
        """Begin a transaction and lock the destination first, as every transaction here does."""
        with runtime.database.transaction() as session:
            state = lock(session, destination.name)
            found = replace(state)
            planner = Planner(session, runtime.database.now(session))
            yield cls(runtime, planner, destination, state)
            planner.write()
            if state != found:
                save(session, state)

    @property
    def session(self) -> Session:
        """The transaction."""
        return self.planner.session

    @property
    def now(self) -> datetime:
        """When the lock was acquired."""
        return self.planner.now

    @property
    def name(self) -> str:
        """The destination's name."""
        return self.destination.name

    @property
    def policy(self) -> DestinationPolicy:
        """The settings that its owner chose."""
        return self.runtime.integrations.policies[self.name]

    @property
    def clock_is_steady(self) -> bool:
        """Whether a message may be given up because it is old."""
        return clock_jumps.is_steady(self.session, self.now)
