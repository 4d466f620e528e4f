"""Claiming rows, and being believed about them only while the claim holds.

One way for events, confirmations and deliveries. A claim is one short committed UPDATE that
raises ``attempt`` and sets ``lease_until``; the transaction that writes the effects checks that
number and ends the row, so whoever lost the lease in between cannot write. A lease that ran out
means that its holder vanished: such a row is next claimed alone, so that it cannot take its
neighbours down again, and after :data:`MOST_VANISHED` holders it is given up; later where it shares
its process with others even so, and what the process died of was hardly ever this row.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cache, lru_cache
from typing import Any, Final

from sqlalchemy import (
    ClauseElement,
    ColumnElement,
    Integer,
    String,
    Table,
    Update,
    and_,
    bindparam,
    case,
    or_,
    select,
    update,
)
from sqlalchemy.sql.dml import ReturningUpdate
from sqlmodel import Session

from receiver.database import bulk
from receiver.database.engine import UtcTime
from receiver.database.followup import GRACE
from receiver.database.row_values import OneOf

MOST_VANISHED = 5
# Of a row that is one of many calls to the outside in one process.
MOST_VANISHED_CALLING = 10
# No lease is longer: one that ends later was written under a clock that has jumped since.
LONGEST_LEASE = timedelta(seconds=60)
# What a call's record needs after the call's own deadline.
MARGIN = timedelta(seconds=2)
# The total deadline of one call to a provider's API, and the lease of a row that makes one.
CALL_SECONDS: Final = 7.0
CALL_LEASE: Final = timedelta(seconds=CALL_SECONDS) + MARGIN


class LeaseLost(Exception):
    """Somebody else holds the row by now, or ended it: this attempt's effects must not count."""


@dataclass(frozen=True, slots=True)
class Claim:
    """One row in hand, and how many of its earlier holders vanished without a word."""

    id: str
    attempt: int
    vanished: int

    @property
    def repeated(self) -> bool:
        """Whether an earlier attempt may have had its effect on the world outside."""
        return self.vanished > 0

    @property
    def given_up(self) -> bool:
        """Whether too many holders vanished over this row, which each of them held alone."""
        return self.vanished >= MOST_VANISHED

    @property
    def given_up_calling(self) -> bool:
        """The same for a row that stood beside other calls in its process."""
        return self.vanished >= MOST_VANISHED_CALLING


# What a statement with one of the conditions below wants to know of the time: see `times`.
NOW: Final = bindparam("now", type_=UtcTime)
AHEAD: Final = bindparam("ahead", type_=UtcTime)
_UNTIL: Final = bindparam("until", type_=UtcTime)
_IDS: Final = bindparam("ids", expanding=True, type_=String)
# The columns that a statement writes: by a parameter of its own, or (not None) by an expression.
_Assigned = tuple[tuple[str, ClauseElement | None], ...]


def times(now: datetime) -> dict[str, object]:
    """The parameters of a statement with :func:`available` or :func:`expired`."""
    return {"now": now, "ahead": now + LONGEST_LEASE}


def available(table: Table) -> ColumnElement[bool]:
    """Rows that have something left to do, are due, and are in nobody's hand.

    The first attempt does not look at the clock: the row was written under another host's. Nor
    does the one after a holder that vanished: the row was due when that one took it.
    """
    due = or_(table.c.attempt == 0, table.c.next_attempt_at <= NOW)
    return and_(
        table.c.wake_at.is_not(None),
        or_(and_(table.c.lease_until.is_(None), due), expired(table)),
    )


def expired(table: Table) -> ColumnElement[bool]:
    """Rows whose holder vanished."""
    return or_(table.c.lease_until <= NOW, table.c.lease_until > AHEAD)


def claim(
    session: Session,
    table: Table,
    ids: Sequence[str],
    *,
    now: datetime,
    lease: timedelta,
    together: bool = False,
    **values: object,
) -> list[Claim]:
    """Those of ``ids`` that could be taken in hand until ``now + lease``.

    ``values`` are written to each row that was won; an expression among them may speak of
    :data:`NOW`, and is one that exists once. With ``together`` rows whose holder vanished come
    along with others: the caller knows that they belong together.
    """
    alone = len(ids) > 1 and not together
    statement = _claim(table, alone, _assigned(values))
    bound = {**times(now), "until": now + lease, "ids": list(ids), **_bound(values)}
    rows = session.connection().execute(statement, bound).all()
    return sorted((Claim(*row) for row in rows), key=lambda claimed: claimed.id)


@lru_cache(maxsize=64)  # to build a statement costs more than to run it
def _claim(table: Table, alone: bool, assigned: _Assigned) -> ReturningUpdate[Any]:
    chosen = select(table.c.id).where(table.c.id.in_(_IDS), available(table))
    if alone:
        chosen = chosen.where(table.c.lease_until.is_(None))
    chosen = chosen.order_by(table.c.id).with_for_update(skip_locked=True)
    # Evaluated once: as a subquery it may run for each row, and each time skip what it took.
    once = chosen.cte("chosen")
    held: dict[str, Any] = {
        "attempt": table.c.attempt + 1,
        "vanished": table.c.vanished + case((table.c.lease_until.is_not(None), 1), else_=0),
        "lease_until": _UNTIL,
        "wake_at": _UNTIL,
    }
    return (
        update(table)
        .where(table.c.id.in_(select(once.c.id)))
        .values({**_values(table, assigned), **held})
        .returning(table.c.id, table.c.attempt, table.c.vanished)
    )


def renew(
    session: Session, table: Table, claimed: Claim, *, now: datetime, lease: timedelta
) -> None:
    """Keep a row in hand for another ``lease`` from ``now``.

    Raises:
        LeaseLost: the row is no longer in this hand.
    """
    _write(session, table, claimed, {"lease_until": now + lease, "wake_at": now + lease})


def finish(session: Session, table: Table, claimed: Claim, **values: object) -> None:
    """End a row in hand: write ``values`` (its state among them) and let go of it.

    Raises:
        LeaseLost: the row is no longer in this hand; the transaction must be rolled back.
    """
    _write(session, table, claimed, {**values, "wake_at": None, "lease_until": None})


def finish_all(
    session: Session, table: Table, ends: Sequence[tuple[Claim, Mapping[str, object]]]
) -> None:
    """:func:`finish` for many rows, each with values of its own.

    Raises:
        LeaseLost: not all of them are in this hand; the transaction must be rolled back.
    """
    alike: dict[tuple[str, ...], list[dict[str, object]]] = {}
    for claimed, values in ends:
        held = {"id": claimed.id, "attempt": claimed.attempt}
        ended = {**held, **values, "wake_at": None, "lease_until": None}
        alike.setdefault(tuple(ended), []).append(ended)
    for rows in alike.values():
        done = bulk.update(
            session.connection(), table, rows,
            keys=("id", "attempt"), where=f"{table.name}.lease_until IS NOT NULL",
        )  # fmt: skip
        if done != len(rows):
            raise LeaseLost(f"{table.name}: somebody else holds one of {len(rows)} rows by now")


def postpone(
    session: Session, table: Table, claimed: Claim, until: datetime, **values: object
) -> None:
    """Write ``values`` to a row in hand and let go of it, to be tried again from ``until`` on.

    Raises:
        LeaseLost: the row is no longer in this hand.
    """
    again = {"next_attempt_at": until, "wake_at": until, "lease_until": None}
    _write(session, table, claimed, {**values, **again})


def write_each(
    session: Session,
    table: Table,
    claims: Sequence[Claim],
    until: datetime | None,
    **values: object,
) -> set[Claim]:
    """Let go of those of ``claims`` that are still in this hand, and say which those were.

    ``values`` are written to each; ``until`` is when they are tried again, None if never.
    """
    again = {} if until is None else {"next_attempt_at": until}
    ended = {**values, **again, "wake_at": until, "lease_until": None}
    held = _held(table).bound((each.id, each.attempt) for each in claims)
    bound = {**held, **_bound(ended)}
    rows = session.connection().execute(_write_many(table, _assigned(ended)), bound)
    written = {(id_, attempt) for id_, attempt in rows}
    return {each for each in claims if (each.id, each.attempt) in written}


def _write(session: Session, table: Table, claimed: Claim, values: Mapping[str, object]) -> None:
    bound = {"held_id": claimed.id, "held_attempt": claimed.attempt, **_bound(values)}
    if session.connection().execute(_write_one(table, _assigned(values)), bound).rowcount != 1:
        raise LeaseLost(f"{table.name} {claimed.id}: attempt {claimed.attempt} no longer holds it")


@lru_cache(maxsize=64)
def _write_one(table: Table, assigned: _Assigned) -> Update:
    return (
        update(table)
        .where(
            table.c.id == bindparam("held_id", type_=String),
            table.c.attempt == bindparam("held_attempt", type_=Integer),
            table.c.lease_until.is_not(None),
        )
        .values(_values(table, assigned))
    )


@cache
def _held(table: Table) -> OneOf:
    return OneOf("held", table.c.id, table.c.attempt)


@lru_cache(maxsize=64)
def _write_many(table: Table, assigned: _Assigned) -> ReturningUpdate[Any]:
    return (
        update(table)
        .where(_held(table).condition, table.c.lease_until.is_not(None))
        .values(_values(table, assigned))
        .returning(table.c.id, table.c.attempt)
    )


def _assigned(values: Mapping[str, object]) -> _Assigned:
    return tuple(
        (name, values[name] if isinstance(values[name], ClauseElement) else None)  # type: ignore[misc]
        for name in sorted(values)
    )


def _values(table: Table, assigned: _Assigned) -> dict[str, Any]:
    """What an UPDATE writes; its parameters have names of their own: those of columns are taken."""
    return {
        name: bindparam(f"new_{name}", type_=table.c[name].type) if written is None else written
        for name, written in assigned
    }


def _bound(values: Mapping[str, object]) -> dict[str, object]:
    return {f"new_{n}": v for n, v in values.items() if not isinstance(v, ClauseElement)}


def revive(
    session: Session, table: Table, ids: Sequence[str], *, now: datetime, **values: object
) -> list[str]:
    """Put ended rows back to work, as if new; the ids of those that were not in hand."""
    statement = (
        update(table)
        .where(table.c.id.in_(ids), table.c.lease_until.is_(None))
        .values({"next_attempt_at": now, "wake_at": now + GRACE, "vanished": 0, **values})
        .returning(table.c.id)
    )
    return sorted(session.connection().scalars(statement))
