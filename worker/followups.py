"""Planning what an event calls for, as rows: each is planned once, however often it is asked."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime

from sqlmodel import Session
from ulid import ULID

from receiver import queue
from receiver.database import insert_once
from receiver.followups import GRACE
from receiver.queue import Waker
from worker.models import PENDING, Code, Confirmation, Delivery, table_of

CONFIRM = "confirm"
VERIFY = "verify"
OPERATORS = "operators"
# Many events may go wrong for one reason: the operators hear of each kind once in this long.
NOTICE_SECONDS = 60

_CONFIRMATIONS = table_of(Confirmation)
_DELIVERIES = table_of(Delivery)


@dataclass(slots=True)
class Planner:
    """Plans within one transaction; :meth:`wake` what was planned after its commit.

    ``deliveries`` are the ids of the new ones by destination.
    """

    session: Session
    now: datetime
    confirmations: list[str] = field(default_factory=list)
    deliveries: dict[str, list[str]] = field(default_factory=dict)

    def confirmation(self, action: str, key: str, code: Code) -> None:
        """Plan to settle ``action`` with the provider."""
        row = str(ULID())
        values = {
            **self._due(row, f"{action}:{key}"),
            "action": action,
            "provider": code.provider,
            "order_id": code.order_id,
            "event_id": code.event_id,
            "code_id": code.id,
        }
        if insert_once(self.session, _CONFIRMATIONS, values):
            self.confirmations.append(row)

    def deliveries_of(
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
        """Plan to tell each of ``destinations`` about an event.

        What is told of a code, or of the order ``order_ref``, is told once, whichever event says
        it.
        """
        for destination in destinations:
            self._delivery(
                f"{destination}|{type_}|{code_id or order_ref or event_id}",
                destination=destination,
                type=type_,
                event_id=event_id,
                code_id=code_id,
                detail=detail,
                stale_at=stale_at,
            )

    def notice(self, destinations: Iterable[str], kind: str, *, event_id: str, detail: str) -> None:
        """Plan to tell the operators that something needs a person."""
        window = int(self.now.timestamp()) // NOTICE_SECONDS
        for destination in destinations:
            self._delivery(
                f"{destination}|{OPERATORS}|{kind}:{window}",
                destination=destination,
                type=OPERATORS,
                event_id=event_id,
                detail=detail,
            )

    def wake(self, waker: Waker) -> None:
        """Wake what was planned; call it after the commit."""
        for destination, rows in self.deliveries.items():
            waker.wake(queue.DELIVER, rows, group=destination)
        waker.wake(queue.CONFIRM_ORDERS, self.confirmations)

    def _delivery(self, key: str, *, destination: str, **values: object) -> None:
        row = str(ULID())
        due = {**self._due(row, key), "failures": 0}
        all_values = {**due, "destination": destination, **values}
        if insert_once(self.session, _DELIVERIES, all_values):
            self.deliveries.setdefault(destination, []).append(row)

    def _due(self, row: str, key: str) -> dict[str, object]:
        return {
            "id": row,
            "key": key,
            "state": PENDING,
            "unsure": False,
            "attempt": 0,
            "vanished": 0,
            "created_at": self.now,
            "next_attempt_at": self.now,
            "wake_at": self.now + GRACE,
        }
