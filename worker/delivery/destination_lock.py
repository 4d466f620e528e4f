"""The state of one destination, and the row lock under which it is read and changed.

The lock also guards the destination's messages: they are claimed and recorded only under it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from typing import Final, Self

from sqlalchemy import String, bindparam, sql, update
from sqlalchemy.exc import SQLAlchemyError
from sqlmodel import Session

from receiver.database.engine import insert_once
from worker.configuration.destination_policy import DestinationPolicy
from worker.destinations.base import Destination
from worker.outbox.planner import Planner
from worker.runtime.runtime import Runtime
from worker.schema.models import Delivery, DestinationState, table_of

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


@dataclass(frozen=True, slots=True)
class LockedDestination:
    """Within one transaction; wake what ``planner`` holds after its commit."""

    runtime: Runtime
    planner: Planner
    destination: Destination
    state: Locked

    @classmethod
    @contextmanager
    def open(cls, runtime: Runtime, destination: Destination) -> Iterator[Self]:
        """A transaction, and in it the destination's lock: before anything else, as all do."""
        with runtime.database.transaction() as session:
            state = lock(session, destination.name)
            found = replace(state)
            planner = Planner(session, runtime.database.now(session))
            yield cls(runtime, planner, destination, state)
            planner.write()
            if state != found:
                save(session, state)

    @contextmanager
    def apart(self) -> Iterator[None]:
        """What fails within takes back nothing that was written before it.

        Raises:
            SQLAlchemyError: it failed.
        """
        found = asdict(self.state)
        try:
            with self.session.connection().begin_nested():
                yield
        except SQLAlchemyError:
            for name, value in found.items():
                setattr(self.state, name, value)
            raise

    @property
    def session(self) -> Session:
        """The transaction."""
        return self.planner.session

    @property
    def now(self) -> datetime:
        """When the lock was won."""
        return self.planner.now

    @property
    def name(self) -> str:
        """The destination's."""
        return self.destination.name

    @property
    def policy(self) -> DestinationPolicy:
        """What its owner chose."""
        return self.runtime.integrations.policies[self.name]
