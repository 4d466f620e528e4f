"""Claims rows under a lease, and fences off writers that have lost it.

Events, confirmations and deliveries share this protocol. A claim is one short committed UPDATE
that raises ``attempt`` and sets ``lease_until``. The transaction that writes the effects checks
``attempt`` and ends the row, so a worker that lost its lease in between cannot write.

An expired lease means that its holder crashed. Such a row is next claimed alone, so that it cannot
crash a whole batch again. After :data:`MAX_LOST_LEASES` expired leases it counts as poison. A row
that always shares its process with other calls is allowed more of them, since it is hardly ever
what crashed the process.
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
    String,
    Table,
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

MAX_LOST_LEASES = 5
# For a row that is one of many concurrent outbound calls in a process.
MAX_LOST_LEASES_AMONG_CALLS = 10
# No lease is longer: one that ends later was written under a clock that has jumped since. This is
# the one guard against that; :func:`held`, :func:`expired` and the sweep use it.
LONGEST_LEASE = timedelta(seconds=60)
# Time to record a call's outcome after the call's own deadline.
MARGIN = timedelta(seconds=2)
# The total deadline of one call to a provider's API, and the lease of a row that makes one.
CALL_SECONDS: Final = 7.0
CALL_LEASE: Final = timedelta(seconds=CALL_SECONDS) + MARGIN


class LeaseLost(Exception):
    """The row was claimed again or ended: this attempt's effects must not be committed."""


@dataclass(frozen=True, slots=True)
class Claim:
    """A claimed row; ``vanished`` counts the earlier leases on it that expired."""

    id: str
    attempt: int
    vanished: int

    @property
    def repeated(self) -> bool:
        """Whether an earlier attempt may have had external effects."""
        return self.vanished > 0

    @property
    def is_poison(self) -> bool:
        """Whether too many leases expired on this row, each held without other rows."""
        return self.vanished >= MAX_LOST_LEASES

    @property
    def is_poison_among_calls(self) -> bool:
        """Like :attr:`is_poison`, for a row that shared its process with other calls."""
        return self.vanished >= MAX_LOST_LEASES_AMONG_CALLS


# Times that the conditions below need as parameters: see `times`.
NOW: Final = bindparam("now", type_=UtcTime)
AHEAD: Final = bindparam("ahead", type_=UtcTime)
_UNTIL: Final = bindparam("until", type_=UtcTime)
_IDS: Final = bindparam("ids", expanding=True, type_=String)
# The columns that a statement sets: to a parameter (None), or to an SQL expression. It is the key
# under which the statement is cached: SQLAlchemy caches only what it compiles, and building the
# statements each time adds 14 % to an event in a full batch, and 59 % to one that comes alone.
_Assignments = tuple[tuple[str, ClauseElement | None], ...]


def times(now: datetime) -> dict[str, object]:
    """The parameters of a statement with :func:`claimable` or :func:`expired`."""
    return {"now": now, "ahead": now + LONGEST_LEASE}


def claimable(table: Table) -> ColumnElement[bool]:
    """Rows that have work left, are due, and are not leased.

    The first attempt ignores the due time: it may come from a host with another clock. So does the
    attempt after an expired lease: the row was due when it was claimed.
    """
    due = or_(table.c.attempt == 0, table.c.next_attempt_at <= NOW)
    return and_(
        table.c.wake_at.is_not(None),
        or_(and_(table.c.lease_until.is_(None), due), expired(table)),
    )


def held(table: Table) -> ColumnElement[bool]:
    """Rows whose lease is in force; an index answers this."""
    return and_(table.c.lease_until > NOW, table.c.lease_until <= AHEAD)


def expired(table: Table) -> ColumnElement[bool]:
    """Rows whose lease has expired."""
    return or_(table.c.lease_until <= NOW, table.c.lease_until > AHEAD)


def claim(
    session: Session,
    table: Table,
    ids: Sequence[str],
    *,
    now: datetime,
    lease: timedelta,
    include_expired: bool = False,
    **values: object,
) -> list[Claim]:
    """Claim the claimable rows among ``ids`` until ``now + lease``; return them, sorted by id.

    ``values`` are written to each claimed row. An SQL expression among them may use :data:`NOW`,
    and must be a module-level object: the statement is cached by it. Among several ids, a row with
    an expired lease is left out unless ``include_expired``.
    """
    skip_expired = len(ids) > 1 and not include_expired
    statement = _claim(table, skip_expired, _assignments(values))
    bound = {**times(now), "until": now + lease, "ids": list(ids), **_parameters(values)}
    rows = session.connection().execute(statement, bound).all()
    return sorted((Claim(*row) for row in rows), key=lambda claimed: claimed.id)


@lru_cache(maxsize=64)
def _claim(table: Table, skip_expired: bool, assignments: _Assignments) -> ReturningUpdate[Any]:
    chosen = select(table.c.id).where(table.c.id.in_(_IDS), claimable(table))
    if skip_expired:
        chosen = chosen.where(table.c.lease_until.is_(None))
    chosen = chosen.order_by(table.c.id).with_for_update(skip_locked=True)
    # A CTE is evaluated once; a subquery may run per row, and skip what it has locked itself.
    once = chosen.cte("chosen")
    leased: dict[str, Any] = {
        "attempt": table.c.attempt + 1,
        "vanished": table.c.vanished + case((table.c.lease_until.is_not(None), 1), else_=0),
        "lease_until": _UNTIL,
        "wake_at": _UNTIL,
    }
    return (
        update(table)
        .where(table.c.id.in_(select(once.c.id)))
        .values({**_set_values(table, assignments), **leased})
        .returning(table.c.id, table.c.attempt, table.c.vanished)
    )


def renew(
    session: Session, table: Table, claimed: Claim, *, now: datetime, lease: timedelta
) -> None:
    """Extend the lease of a claimed row to ``now + lease``.

    Raises:
        LeaseLost: the claim no longer holds.
    """
    _write(session, table, claimed, {"lease_until": now + lease, "wake_at": now + lease})


def finish(session: Session, table: Table, claimed: Claim, **values: object) -> None:
    """End a claimed row: write ``values`` (its state among them), and release it.

    Raises:
        LeaseLost: the claim no longer holds; the transaction must be rolled back.
    """
    _write(session, table, claimed, {**values, "wake_at": None, "lease_until": None})


def finish_all(
    session: Session, table: Table, ends: Sequence[tuple[Claim, Mapping[str, object]]]
) -> None:
    """:func:`finish` for many rows, each with its own values.

    Raises:
        LeaseLost: one of the claims no longer holds; the transaction must be rolled back.
    """
    by_columns: dict[tuple[str, ...], list[dict[str, object]]] = {}
    for claimed, values in ends:
        key = {"id": claimed.id, "attempt": claimed.attempt}
        row = {**key, **values, "wake_at": None, "lease_until": None}
        by_columns.setdefault(tuple(row), []).append(row)
    for rows in by_columns.values():
        done = bulk.update(
            session.connection(), table, rows,
            keys=("id", "attempt"), where=f"{table.name}.lease_until IS NOT NULL",
        )  # fmt: skip
        if done != len(rows):
            raise LeaseLost(f"{table.name}: lost the lease of {len(rows) - done} of {len(rows)}")


def postpone(
    session: Session, table: Table, claimed: Claim, until: datetime, **values: object
) -> None:
    """Write ``values`` to a claimed row, and release it to be retried from ``until`` on.

    Raises:
        LeaseLost: the claim no longer holds.
    """
    retry = {"next_attempt_at": until, "wake_at": until, "lease_until": None}
    _write(session, table, claimed, {**values, **retry})


def release(
    session: Session,
    table: Table,
    claims: Sequence[Claim],
    until: datetime | None,
    **values: object,
) -> set[Claim]:
    """Write ``values`` to the rows whose claim still holds and release them; return those claims.

    They are retried from ``until`` on; None ends them.
    """
    retry = {} if until is None else {"next_attempt_at": until}
    released = {**values, **retry, "wake_at": until, "lease_until": None}
    return _write_held(session, table, claims, released)


def _write(session: Session, table: Table, claimed: Claim, values: Mapping[str, object]) -> None:
    if not _write_held(session, table, [claimed], values):
        raise LeaseLost(f"{table.name} {claimed.id}: attempt {claimed.attempt} lost its lease")


def _write_held(
    session: Session, table: Table, claims: Sequence[Claim], values: Mapping[str, object]
) -> set[Claim]:
    """Write ``values`` to the rows whose claim still holds; return those claims."""
    claimed = _claimed(table).bound((each.id, each.attempt) for each in claims)
    bound = {**claimed, **_parameters(values)}
    rows = session.connection().execute(_update(table, _assignments(values)), bound)
    written = {(id_, attempt) for id_, attempt in rows}
    return {each for each in claims if (each.id, each.attempt) in written}


@cache
def _claimed(table: Table) -> OneOf:
    return OneOf("claimed", table.c.id, table.c.attempt)


@lru_cache(maxsize=64)
def _update(table: Table, assignments: _Assignments) -> ReturningUpdate[Any]:
    return (
        update(table)
        .where(_claimed(table).condition, table.c.lease_until.is_not(None))
        .values(_set_values(table, assignments))
        .returning(table.c.id, table.c.attempt)
    )


def _assignments(values: Mapping[str, object]) -> _Assignments:
    return tuple(
        (name, values[name] if isinstance(values[name], ClauseElement) else None)  # type: ignore[misc]
        for name in sorted(values)
    )


def _set_values(table: Table, assignments: _Assignments) -> dict[str, Any]:
    """The SET clause of an UPDATE. Its parameters have a prefix: column names are taken."""
    return {
        name: bindparam(f"new_{name}", type_=table.c[name].type) if value is None else value
        for name, value in assignments
    }


def _parameters(values: Mapping[str, object]) -> dict[str, object]:
    return {f"new_{n}": v for n, v in values.items() if not isinstance(v, ClauseElement)}


def requeue(
    session: Session, table: Table, ids: Sequence[str], *, now: datetime, **values: object
) -> list[str]:
    """Make ended rows due again, as if new; return the ids of those that were not leased."""
    statement = (
        update(table)
        .where(table.c.id.in_(ids), table.c.lease_until.is_(None))
        .values({"next_attempt_at": now, "wake_at": now + GRACE, "vanished": 0, **values})
        .returning(table.c.id)
    )
    return sorted(session.connection().scalars(statement))
