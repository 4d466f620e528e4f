"""Deliveries that go to another destination: to a fallback, or where an operator moves them.

The other destination gets a delivery of its own, and the original one ends as ``diverted``, with
where to. It ends as ``dead`` if that destination has had the same delivery and could not take it:
then nobody is told.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from sqlalchemy import ColumnElement, String, and_, bindparam, delete, func, select, update
from sqlmodel import Session
from ulid import ULID

from receiver.database import bulk
from receiver.database.followup import GRACE
from worker.delivery import destination_lock
from worker.delivery.deferral import ANY, waiting
from worker.outbox.planner import Planner
from worker.schema.models import Delivery, table_of
from worker.schema.states import DEAD, DIVERTED, PENDING

# Rows that one transaction moves.
BATCH = 500
BY_OPERATOR = "moved by an operator"
_TABLE = table_of(Delivery)
_KEYS: Final = bindparam("keys", expanding=True, type_=String)
_NOT_TAKEN: Final = select(_TABLE.c.key).where(
    _TABLE.c.key.in_(_KEYS), _TABLE.c.state.in_([DEAD, DIVERTED])
)


def to_fallback(
    planner: Planner,
    destination: str,
    fallback: str,
    reason: str,
    which: ColumnElement[bool] = ANY,
) -> bool:
    """Move the destination's oldest waiting rows to its fallback; whether there may be more."""
    mine = and_(waiting(destination), which, _TABLE.c.recipient.is_(None))
    return _divert(planner, mine, fallback, reason) == BATCH


def count(session: Session, destination: str, state: str) -> int:
    """How many deliveries in ``state`` an operator may move or drop."""
    counted = select(func.count()).select_from(_TABLE).where(_idle(destination, state))
    return session.connection().scalar(counted) or 0


def move(planner: Planner, destination: str, target: str, state: str) -> int:
    """Move a batch of the destination's deliveries in ``state`` to another; how many it had.

    Call it again until it returns less than :data:`BATCH`.
    """
    destination_lock.lock(planner.session, destination)  # no sender claims them meanwhile
    return _divert(planner, _idle(destination, state), target, BY_OPERATOR)


def drop(session: Session, destination: str, state: str) -> int:
    """Delete the destination's deliveries in ``state``; returns how many."""
    destination_lock.lock(session, destination)
    statement = delete(_TABLE).where(_idle(destination, state))
    return session.connection().execute(statement).rowcount


def plan_copies(
    planner: Planner, target: str, rows: Sequence[dict[str, Any]]
) -> Sequence[dict[str, Any]]:
    """Plan deliveries to ``target`` in place of ``rows``, except those that it has already.

    Returns the rows that ``target`` has now and can take. The unique key also ends a cycle of
    fallbacks: each destination gets a delivery once.
    """
    if not rows:
        return rows
    copies = {_key(target, row): row for row in rows}
    added = bulk.insert_new(
        planner.session.connection(),
        _TABLE,
        [_copy(planner, key, target, copies[key]) for key in sorted(copies)],
    )
    planner.deliveries.setdefault(target, []).extend(sorted(added))
    if len(added) == len(copies):
        return rows
    refused = planner.session.connection().scalars(_NOT_TAKEN, {"keys": list(copies)})
    not_taken = set(refused)
    return [row for row in rows if _key(target, row) not in not_taken]


def _divert(planner: Planner, which: ColumnElement[bool], target: str, reason: str) -> int:
    """End the oldest of these rows, at most a batch, with a copy each for ``target``."""
    chosen = select(_TABLE).where(which).order_by(_TABLE.c.id).limit(BATCH)
    connection = planner.session.connection()
    rows = [
        dict(row) for row in connection.execute(chosen.with_for_update(skip_locked=True)).mappings()
    ]
    taken = [row["id"] for row in plan_copies(planner, target, rows)]
    left = sorted({row["id"] for row in rows} - set(taken))
    for ids, state, outcome in (
        (taken, DIVERTED, f"sent to {target} instead"),
        (left, DEAD, f"{target} could not take it either"),
    ):
        if ids:
            connection.execute(
                update(_TABLE)
                .where(_TABLE.c.id.in_(ids))
                .values(state=state, error=f"{reason}; {outcome}", wake_at=None)
            )
    return len(rows)


def _idle(destination: str, state: str) -> ColumnElement[bool]:
    return and_(
        _TABLE.c.destination == destination,
        _TABLE.c.state == state,
        _TABLE.c.lease_until.is_(None),
    )


def _key(target: str, row: dict[str, Any]) -> str:
    """The copy's key: the same for the rows of several recipients."""
    rest: str = row["key"].removeprefix(row["destination"])
    return target + (rest.removesuffix(f"|{row['recipient']}") if row["recipient"] else rest)


def _copy(planner: Planner, key: str, target: str, row: dict[str, Any]) -> dict[str, Any]:
    copied = ("type", "event_id", "code_id", "detail", "unsure", "created_at", "stale_at")
    return {
        **{name: row[name] for name in copied},
        "id": str(ULID()),
        "key": key,
        "destination": target,
        "state": PENDING,
        "failures": 0,
        "attempt": 0,
        "vanished": 0,
        "next_attempt_at": planner.now,
        "wake_at": planner.now + GRACE,
    }
