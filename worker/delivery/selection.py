"""Which of a destination's waiting rows are told next, and which of them in one message."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from typing import Any, Final

from sqlalchemy import (
    ColumnElement,
    Integer,
    Select,
    String,
    bindparam,
    case,
    distinct,
    func,
    or_,
    select,
)
from sqlmodel import Session

from worker.outbox import leases
from worker.schema.models import Delivery, table_of
from worker.schema.states import SENDING

_TABLE = table_of(Delivery)
_DESTINATION: Final = bindparam("destination", type_=String)
_IS_STALE: Final = _TABLE.c.stale_at <= leases.NOW
_IS_FRESH: Final = or_(_TABLE.c.stale_at.is_(None), _TABLE.c.stale_at > leases.NOW)
_IN_HAND: Final = select(func.count(distinct(_TABLE.c.message))).where(
    _TABLE.c.destination == _DESTINATION,
    _TABLE.c.state == SENDING,
    # In these words, an index answers it.
    _TABLE.c.lease_until > leases.NOW,
    _TABLE.c.lease_until <= leases.AHEAD,
)


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
    # Few wait, nearly always: they are all there is to choose from.
    oldest = _candidates(session, destination, now, limit, only)
    if len(oldest) < limit:
        return sorted(oldest, key=lambda each: each.stale)
    # Not one statement sorted by both: that would read all that waits, however little is wanted.
    fresh = _candidates(session, destination, now, limit, only, age=_IS_FRESH)
    if len(fresh) == limit:
        return fresh
    return fresh + _candidates(session, destination, now, limit - len(fresh), only, age=_IS_STALE)


def _candidates(
    session: Session,
    destination: str,
    now: datetime,
    limit: int,
    only: ColumnElement[bool],
    *,
    age: ColumnElement[bool] | None = None,
) -> list[Candidate]:
    bound = {**leases.times(now), "destination": destination, "limit": limit}
    rows = session.connection().execute(_first(only, age), bound)
    return [
        Candidate(id_, bool(stale), bool(abandoned), *rest) for id_, stale, abandoned, *rest in rows
    ]


@cache  # to build a statement costs more than to run it; there are few conditions
def _first(only: ColumnElement[bool], age: ColumnElement[bool] | None) -> Select[Any]:
    stale = case((_IS_STALE, 1), else_=0)
    abandoned = case((_TABLE.c.lease_until.is_not(None), 1), else_=0)
    columns = (_TABLE.c.vanished, _TABLE.c.unsure, _TABLE.c.message, _TABLE.c.recipient)
    return (
        select(_TABLE.c.id, stale, abandoned, *columns)
        .where(
            _TABLE.c.destination == _DESTINATION,
            leases.available(_TABLE),
            only,
            *(() if age is None else (age,)),
        )
        .order_by(_TABLE.c.id)
        .limit(bindparam("limit", type_=Integer))
    )


def together(waiting: Sequence[Candidate], most: int) -> list[str]:
    """The ids to tell next in one message, at most ``most``: the first, and its company."""
    if most == 1:
        return [waiting[0].id]
    company = waiting[0].company
    return [each.id for each in waiting if each.company == company][:most]


def in_hand(session: Session, destination: str, now: datetime) -> int:
    """How many messages to the destination are being sent."""
    bound = {**leases.times(now), "destination": destination}
    return session.connection().scalar(_IN_HAND, bound) or 0
