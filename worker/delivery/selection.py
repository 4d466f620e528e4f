"""Selects which of a destination's due rows are sent next, and which share a message."""

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
_IN_FLIGHT: Final = select(func.count(distinct(_TABLE.c.message))).where(
    _TABLE.c.destination == _DESTINATION,
    _TABLE.c.state == SENDING,
    leases.held(_TABLE),
)


@dataclass(frozen=True, slots=True)
class Candidate:
    """A row that is due, with the columns that decide which rows it may share a message with."""

    id: str
    stale: bool
    abandoned: bool
    vanished: int
    unsure: bool
    message: str | None
    recipient: str | None
    split_from: str | None

    @property
    def maybe_sent(self) -> bool:
        """Whether an earlier attempt may have sent it."""
        return self.unsure or self.abandoned

    @property
    def has_company(self) -> bool:
        """Whether it was decided earlier which rows it shares a message with."""
        return self.maybe_sent or self.split_from is not None

    @property
    def batch_key(self) -> object:
        """Equal for rows that may share a message.

        Rows that may have been sent together are repeated together, so that a mailbox recognises
        the repetition. After one lost lease they are repeated together once; after a second one
        each row is sent alone. A part of a refused message stays as it was split. Stale rows do not
        share a message with fresh ones.
        """
        alone = self.id if self.abandoned and self.vanished else None
        together = (self.message or self.id) if self.has_company else None
        return (alone, together, self.abandoned, self.stale, self.recipient)


def candidates(
    session: Session, destination: str, now: datetime, limit: int, only: ColumnElement[bool]
) -> list[Candidate]:
    """The destination's first ``limit`` due rows: fresh ones before stale ones, oldest first."""
    # Nearly always fewer than the limit are due, and one statement is enough.
    oldest = _candidates(session, destination, now, limit, only)
    if len(oldest) < limit:
        return sorted(oldest, key=lambda each: each.stale)
    # One statement sorted by both would read every due row, however small the limit.
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


@cache
def _first(only: ColumnElement[bool], age: ColumnElement[bool] | None) -> Select[Any]:
    stale = case((_IS_STALE, 1), else_=0)
    abandoned = case((_TABLE.c.lease_until.is_not(None), 1), else_=0)
    names = ("vanished", "unsure", "message", "recipient", "split_from")
    columns = [_TABLE.c[name] for name in names]
    return (
        select(_TABLE.c.id, stale, abandoned, *columns)
        .where(
            _TABLE.c.destination == _DESTINATION,
            leases.claimable(_TABLE),
            only,
            *(() if age is None else (age,)),
        )
        .order_by(_TABLE.c.id)
        .limit(bindparam("limit", type_=Integer))
    )


def next_batch(waiting: Sequence[Candidate], most: int) -> list[str]:
    """The ids of the next message, at most ``most``: the first row and those with its key."""
    if most == 1:
        return [waiting[0].id]
    key = waiting[0].batch_key
    return [each.id for each in waiting if each.batch_key == key][:most]


def in_flight(session: Session, destination: str, now: datetime) -> int:
    """How many messages to the destination are in flight, in all processes."""
    bound = {**leases.times(now), "destination": destination}
    return session.connection().scalar(_IN_FLIGHT, bound) or 0
