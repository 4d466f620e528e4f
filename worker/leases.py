"""Claiming rows, and being believed about them only while the claim holds.

One way for events, confirmations and deliveries. A claim is one short committed UPDATE that
raises ``attempt`` and sets ``lease_until``; the transaction that writes the effects checks that
number and ends the row, so whoever lost the lease in between cannot write. A lease that ran out
means that its holder vanished: such a row is next claimed alone, so that it cannot take its
neighbours down again, and after :data:`MOST_VANISHED` holders it is given up.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Table, and_, case, or_, select, tuple_, update
from sqlmodel import Session

from receiver.followups import GRACE

MOST_VANISHED = 5
# No lease is longer: one that ends later was written under a clock that has jumped since.
LONGEST_LEASE = timedelta(seconds=60)
# What a call's record needs after the call's own deadline.
MARGIN = timedelta(seconds=2)


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
        """Whether too many holders vanished over this row."""
        return self.vanished >= MOST_VANISHED


def available(table: Table, now: datetime) -> ColumnElement[bool]:
    """Rows that have something left to do, are due, and are in nobody's hand.

    The first attempt does not look at the clock: the row was written under another host's. Nor
    does the one after a holder that vanished: the row was due when that one took it.
    """
    due = or_(table.c.attempt == 0, table.c.next_attempt_at <= now)
    return and_(
        table.c.wake_at.is_not(None),
        or_(and_(table.c.lease_until.is_(None), due), expired(table, now)),
    )


def expired(table: Table, now: datetime) -> ColumnElement[bool]:
    """Rows whose holder vanished."""
    return or_(table.c.lease_until <= now, table.c.lease_until > now + LONGEST_LEASE)


def claim(
    session: Session,
    table: Table,
    ids: Sequence[str],
    *,
    now: datetime,
    lease: timedelta,
    limit: int | None = None,
    together: bool = False,
    **values: object,
) -> list[Claim]:
    """Those of ``ids`` that could be taken in hand until ``now + lease``, at most ``limit``.

    ``values`` are written to each row that was won. With ``together`` rows whose holder vanished
    come along with others: the caller knows that they belong together.
    """
    chosen = select(table.c.id).where(table.c.id.in_(ids), available(table, now))
    if len(ids) > 1 and not together:
        chosen = chosen.where(table.c.lease_until.is_(None))
    chosen = chosen.order_by(table.c.id).limit(limit).with_for_update(skip_locked=True)
    # Evaluated once: as a subquery it may run for each row, and each time skip what it took.
    once = chosen.cte("chosen")
    held: dict[str, Any] = {
        "attempt": table.c.attempt + 1,
        "vanished": table.c.vanished + case((table.c.lease_until.is_not(None), 1), else_=0),
        "lease_until": now + lease,
        "wake_at": now + lease,
    }
    statement = (
        update(table)
        .where(table.c.id.in_(select(once.c.id)))
        .values({**values, **held})
        .returning(table.c.id, table.c.attempt, table.c.vanished)
    )
    rows = session.connection().execute(statement)
    return sorted((Claim(*row) for row in rows), key=lambda claimed: claimed.id)


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
) -> set[str]:
    """Let go of those of ``claims`` that are still in this hand; the ids of those that were.

    ``values`` are written to each; ``until`` is when they are tried again, None if never.
    """
    held = tuple_(table.c.id, table.c.attempt).in_([(each.id, each.attempt) for each in claims])
    again = {} if until is None else {"next_attempt_at": until}
    statement = (
        update(table)
        .where(held, table.c.lease_until.is_not(None))
        .values({**values, **again, "wake_at": until, "lease_until": None})
        .returning(table.c.id)
    )
    return set(session.connection().scalars(statement))


def _write(session: Session, table: Table, claimed: Claim, values: dict[str, object]) -> None:
    statement = (
        update(table)
        .where(
            table.c.id == claimed.id,
            table.c.attempt == claimed.attempt,
            table.c.lease_until.is_not(None),
        )
        .values(values)
        .returning(table.c.id)
    )
    if session.connection().execute(statement).first() is None:
        raise LeaseLost(f"{table.name} {claimed.id}: attempt {claimed.attempt} no longer holds it")


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
