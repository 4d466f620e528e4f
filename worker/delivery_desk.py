"""One destination under its lock: what claiming and recording its messages have in common."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from typing import Self

from sqlalchemy.exc import SQLAlchemyError
from sqlmodel import Session

from worker import destination_states
from worker.destination_policy import DestinationPolicy
from worker.destination_states import Locked
from worker.destinations.base import Destination
from worker.followups import Planner
from worker.runtime import Runtime


@dataclass(frozen=True, slots=True)
class Desk:
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
            state = destination_states.lock(session, destination.name)
            found = replace(state)
            planner = Planner(session, runtime.database.now(session))
            yield cls(runtime, planner, destination, state)
            planner.write()
            if state != found:
                destination_states.save(session, state)

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
        return self.runtime.outside.policies[self.name]
