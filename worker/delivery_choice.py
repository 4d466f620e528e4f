"""Which of a destination's waiting rows are told next, and which of them in one message."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import ColumnElement, case, distinct, func, not_, select
from sqlmodel import Session

from worker import leases
from worker.models import SENDING, Delivery, table_of

_TABLE = table_of(Delivery)


@dataclass(frozen=True, slots=True)
class Candidate:
    """A row that is due, and what decides in whose company it may be told."""

    id: str
    stale: bool
    abandoned: bool
    vanished: int
    unsure: bool
    message: str | None
    recipient: str | None

    @property
    def again(self) -> bool:
        """Whether it may have been told already."""
        return self.unsure or self.abandoned

    @property
    def company(self) -> object:
        """Equal for rows that may share a message.

        What may be a repetition is repeated as it was, so that a mailbox can tell. What a sender
        was lost over goes as it was only once: if another is lost over it, each row goes alone.
        What is out of date does not go among what is not.
        """
        alone = self.id if self.abandoned and self.vanished else None
        again = (self.message or self.id) if self.again else None
        return (alone, again, self.abandoned, self.stale, self.recipient)


def candidates(
    session: Session, destination: str, now: datetime, limit: int, only: ColumnElement[bool]
) -> list[Candidate]:
    """The destination's first rows that are due: what is not out of date first, then by age."""
    stale = case((_TABLE.c.stale_at <= now, 1), else_=0)
    abandoned = case((_TABLE.c.lease_until.is_not(None), 1), else_=0)
    columns = (_TABLE.c.vanished, _TABLE.c.unsure, _TABLE.c.message, _TABLE.c.recipient)
    chosen = (
        select(_TABLE.c.id, stale, abandoned, *columns)
        .where(_TABLE.c.destination == destination, leases.available(_TABLE, now), only)
        .order_by(stale, _TABLE.c.id)
        .limit(limit)
    )
    rows = session.connection().execute(chosen)
    return [Candidate(row[0], bool(row[1]), bool(row[2]), *row[3:]) for row in rows]


def together(waiting: Sequence[Candidate], most: int) -> list[str]:
    """The ids to tell next in one message, at most ``most``: the first, and its company."""
    company = [each.id for each in waiting if each.company == waiting[0].company]
    return company[:most]


def in_hand(session: Session, destination: str, now: datetime) -> int:
    """How many messages to the destination are being sent."""
    held = select(func.count(distinct(_TABLE.c.message))).where(
        _TABLE.c.destination == destination,
        _TABLE.c.state == SENDING,
        not_(leases.expired(_TABLE, now)),
    )
    return session.connection().scalar(held) or 0
