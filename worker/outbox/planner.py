"""Plans follow-ups as rows. Each has a unique key: planned again, it stays one row."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime

from sqlalchemy import Table, func, select
from sqlmodel import Session

from receiver import queue
from receiver.database import bulk
from receiver.database.engine import Database
from receiver.database.followup import GRACE
from receiver.ids import endless_ids
from receiver.queue import Waker
from worker.schema.models import Confirmation, Delivery, table_of
from worker.schema.states import OPERATORS, PENDING

# Many events may fail for one reason, so the operators get one notice of each kind per window.
NOTICE_SECONDS = 60

_CONFIRMATIONS = table_of(Confirmation)
_DELIVERIES = table_of(Delivery)
# Rows of one INSERT have the same columns.
_NO_DETAILS = {"code_id": None, "detail": None, "stale_at": None}


@dataclass(slots=True)
class Planner:
    """Plans within one transaction: call :meth:`write` before its commit, :meth:`wake` after it.

    ``confirmations`` and ``deliveries`` (by destination) are the ids of the rows that are new.
    """

    session: Session
    now: datetime
    confirmations: list[str] = field(default_factory=list)
    deliveries: dict[str, list[str]] = field(default_factory=dict)
    _confirmations: dict[str, dict[str, object]] = field(default_factory=dict)
    _deliveries: dict[str, dict[str, object]] = field(default_factory=dict)
    _ids: Iterator[str] = field(default_factory=endless_ids)

    def plan_confirmation(
        self,
        action: str,
        key: str,
        *,
        provider: str,
        order_id: str,
        event_id: str,
        code_id: str,
    ) -> None:
        """Plan to settle ``action`` with the provider, once per ``key``."""
        key = f"{action}:{key}"
        if key not in self._confirmations:
            self._confirmations[key] = {
                **self._new_row(key),
                "action": action,
                "provider": provider,
                "order_id": order_id,
                "event_id": event_id,
                "code_id": code_id,
            }

    def plan_deliveries(
        self,
        destinations: Iterable[str],
        type_: str,
        *,
        event_id: str,
        code_id: str | None = None,
        order_ref: str | None = None,
        detail: str | None = None,
        stale_at: datetime | None = None,
    ) -> None:
        """Plan to deliver an event to each of ``destinations``.

        Once per destination and type for each code, else for each ``order_ref``, else for each
        event: other events that report the same plan nothing new.
        """
        for destination in destinations:
            self._plan_delivery(
                f"{destination}|{type_}|{code_id or order_ref or event_id}",
                destination=destination,
                type=type_,
                event_id=event_id,
                code_id=code_id,
                detail=detail,
                stale_at=stale_at,
            )

    def plan_notice(
        self, destinations: Iterable[str], kind: str, *, event_id: str, detail: str
    ) -> None:
        """Plan to notify the operators, once per kind and window of :data:`NOTICE_SECONDS`."""
        for destination, key in self._notice_keys(destinations, kind).items():
            self._plan_delivery(
                key,
                destination=destination,
                type=OPERATORS,
                event_id=event_id,
                detail=detail,
            )

    def is_noticed(self, destinations: Iterable[str], kind: str) -> bool:
        """Whether :meth:`plan_notice` would plan nothing: the operators have one of this window."""
        keys = set(self._notice_keys(destinations, kind).values()) - self._deliveries.keys()
        known = select(func.count()).where(_DELIVERIES.c.key.in_(keys))
        return not keys or self.session.connection().scalar(known) == len(keys)

    def write(self) -> None:
        """Insert the planned rows, except those whose key exists."""
        self.confirmations += sorted(self._insert(_CONFIRMATIONS, self._confirmations))
        inserted = self._insert(_DELIVERIES, self._deliveries)
        for row in self._deliveries.values():
            if row["id"] in inserted:
                self.deliveries.setdefault(str(row["destination"]), []).append(str(row["id"]))
        self._confirmations.clear()
        self._deliveries.clear()

    def wake(self, waker: Waker) -> None:
        """Send wake-up messages for the new rows; call it after the commit."""
        for destination, rows in self.deliveries.items():
            waker.wake(queue.DELIVER, rows, group=destination)
        waker.wake(queue.CONFIRM_ORDERS, self.confirmations)

    def _notice_keys(self, destinations: Iterable[str], kind: str) -> dict[str, str]:
        window = int(self.now.timestamp()) // NOTICE_SECONDS
        return {each: f"{each}|{OPERATORS}|{kind}:{window}" for each in destinations}

    def _insert(self, table: Table, rows: Mapping[str, Mapping[str, object]]) -> set[str]:
        # Sorted: two transactions that insert equal keys in another order deadlock on PostgreSQL.
        ordered = [rows[key] for key in sorted(rows)]
        return bulk.insert_new(self.session.connection(), table, ordered) if rows else set()

    def _plan_delivery(self, key: str, **values: object) -> None:
        if key not in self._deliveries:
            self._deliveries[key] = {**_NO_DETAILS, **self._new_row(key), "failures": 0, **values}

    def _new_row(self, key: str) -> dict[str, object]:
        return {
            "id": next(self._ids),
            "key": key,
            "state": PENDING,
            "unsure": False,
            "attempt": 0,
            "vanished": 0,
            "created_at": self.now,
            "next_attempt_at": self.now,
            "wake_at": self.now + GRACE,
        }


@contextmanager
def planning(database: Database) -> Iterator[Planner]:
    """A transaction with a planner: at the end of the block it writes the plans and commits."""
    with database.transaction() as session:
        planner = Planner(session, database.now(session))
        yield planner
        planner.write()
