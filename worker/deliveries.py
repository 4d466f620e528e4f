"""Telling destinations: claim one row, send it, record how that ended, go on with the next.

At most :data:`IN_HAND` rows of one destination are being sent at once, so that a slow one holds
nobody else up; whoever finishes one takes the destination's next. An answer that never came is
repeated once and marked, since a doubled message is better than a lost code.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import structlog
from sqlalchemy import func, not_, update
from sqlalchemy.exc import SQLAlchemyError
from sqlmodel import Session, col, select

from receiver import queue
from receiver.database import persist
from receiver.errors import CodecatchError
from receiver.failpoints import reach
from worker import backoff, budgets, leases, notifications
from worker.destinations.base import DeliveryError, Destination
from worker.followups import OPERATORS, Planner
from worker.leases import MARGIN, Claim, LeaseLost
from worker.messages import Notification
from worker.models import DEAD, DONE, PENDING, SENDING, UNKNOWN, Delivery, table_of
from worker.runtime import Runtime

IN_HAND = 4
MOST_ATTEMPTS = 15
# After this long a task leaves the rest of a destination's rows to another.
_CHAIN_SECONDS = 10.0
_AFTER_UNKNOWN = timedelta(seconds=5)
_SHORTEST_PAUSE = timedelta(seconds=1)
# A destination that asks for pauses is alive: such attempts do not count, for this long.
_LONGEST_PAUSED = timedelta(hours=24)
_TABLE = table_of(Delivery)
_log = structlog.get_logger(__name__)


def _lock_key(destination: str) -> str:
    """The row by which one claims for a destination at a time, and which says when to stay away."""
    return f"destination:{destination}"


@dataclass(frozen=True, slots=True)
class _Held:
    """One row in hand, and what it says, or why that cannot be told."""

    row: Delivery
    claimed: Claim
    notification: Notification | DeliveryError


def deliver(runtime: Runtime, ids: Sequence[str]) -> None:
    """Send those of the deliveries ``ids`` that are due, and more for the same destinations."""
    until = time.monotonic() + _CHAIN_SECONDS
    for number, row_id in enumerate(ids):
        if number and time.monotonic() > until:
            return  # the sweep wakes what is left
        with runtime.database.reading() as session:
            row = session.get(Delivery, row_id)
            now = runtime.database.now(session)
        if row is None or row.wake_at is None or (row.lease_until or now) > now:
            continue  # ended, or in hand: most of a message's rows are by the time it is read
        destination = runtime.outside.destinations.get(row.destination)
        if destination is None:
            _bury(runtime, row)
        else:
            _chain(runtime, destination, row_id, until)


def _chain(runtime: Runtime, destination: Destination, first: str, until: float) -> None:
    """Send one row after the other; how one ended and which is next are one transaction."""
    with runtime.database.transaction() as session:
        held = _take(runtime, session, destination, first)
    while held is not None:
        with structlog.contextvars.bound_contextvars(event_id=held.row.event_id):
            reach("deliveries.after_claim")
            error = _send(destination, held)
            reach("deliveries.after_send")
            go_on = time.monotonic() < until
            held = _record(runtime, destination, held, error, take_next=go_on)


def _take(
    runtime: Runtime, session: Session, destination: Destination, row_id: str | None
) -> _Held | None:
    """Claim the row, or the destination's next one; None if there is none or too many in hand."""
    lease = timedelta(seconds=destination.deadline) + MARGIN
    budget = budgets.lock(session, _lock_key(destination.name))
    now = runtime.database.now(session)
    ids = [row_id] if row_id else _next(session, destination.name, now)
    if budget.blocked_until is not None and budget.blocked_until > now:
        _put_off(session, ids, budget.blocked_until)
        return None
    if not ids or _in_hand(session, destination.name, now) >= IN_HAND:
        return None
    won = leases.claim(session, _TABLE, ids, now=now, lease=lease, state=SENDING)
    if not won:
        return None
    row = session.get_one(Delivery, won[0].id)
    notification: Notification | DeliveryError
    try:
        notification = notifications.compose(session, runtime.vault, row, won[0])
    except CodecatchError as error:
        notification = DeliveryError(str(error), permanent=True)
    session.expunge(row)
    return _Held(row, won[0], notification)


def _next(session: Session, destination: str, now: datetime) -> list[str]:
    """The destination's oldest row that is due, if there is one."""
    chosen = (
        select(Delivery.id)
        .where(
            col(Delivery.destination) == destination,
            leases.available(_TABLE, now),
        )
        .order_by(col(Delivery.id))
        .limit(1)
    )
    return list(session.exec(chosen))


def _in_hand(session: Session, destination: str, now: datetime) -> int:
    return session.exec(
        select(func.count()).where(
            col(Delivery.destination) == destination,
            col(Delivery.state) == SENDING,
            not_(leases.expired(_TABLE, now)),
        )
    ).one()


def _put_off(session: Session, ids: Sequence[str], until: datetime) -> None:
    session.connection().execute(
        update(_TABLE)
        .where(_TABLE.c.id.in_(ids), _TABLE.c.lease_until.is_(None), _TABLE.c.wake_at.is_not(None))
        .values(wake_at=until)
    )


def _send(destination: Destination, held: _Held) -> DeliveryError | None:
    """Tell the destination; what went wrong, if something did."""
    if held.claimed.given_up:
        return DeliveryError("processes died while sending it", permanent=True, unknown=True)
    if isinstance(held.notification, DeliveryError):
        return held.notification
    try:
        destination.send([held.notification])
    except DeliveryError as refused:
        return refused
    except Exception as broken:  # noqa: BLE001 - a bug in one destination must not stop others
        _log.exception("destination.broke", destination=destination.name)
        return DeliveryError(f"the destination broke: {type(broken).__name__}", unknown=True)
    return None


def _record(
    runtime: Runtime,
    destination: Destination,
    held: _Held,
    error: DeliveryError | None,
    *,
    take_next: bool,
) -> _Held | None:
    """Write how a sending ended; the destination's next row in hand, if one was asked for."""

    def write() -> tuple[str | None, Planner, _Held | None, list[str]]:
        with runtime.database.transaction() as session:
            # The lock on the destination comes first, as it does for everybody.
            budgets.lock(session, _lock_key(destination.name))
            planner = Planner(session, runtime.database.now(session))
            state = _write(runtime, planner, destination, held, error)
            if take_next:
                return state, planner, _take_next(runtime, session, destination), []
            return state, planner, None, _next(session, destination.name, planner.now)

    try:
        state, planner, following, left = persist(write)
    except LeaseLost as lost:
        _log.warning("delivery.lease_lost", delivery_id=held.row.id, reason=str(lost))
        return None
    reach("deliveries.after_record")
    planner.wake(runtime.waker)
    runtime.waker.wake(queue.DELIVER, left, group=destination.name)
    log: Callable[..., Any] = _log.info if error is None else _log.warning
    log(
        "delivery.attempted",
        delivery_id=held.row.id,
        destination=destination.name,
        state=state or PENDING,
        attempt=held.claimed.attempt,
        reason=error.reason if error else None,
    )
    return following


def _take_next(runtime: Runtime, session: Session, destination: Destination) -> _Held | None:
    # Whatever keeps the next row from being claimed must not take back the record before it.
    try:
        with session.begin_nested():
            return _take(runtime, session, destination, None)
    except SQLAlchemyError as error:
        _log.warning("delivery.claim_failed", error=type(error).__name__)
        return None


def _write(
    runtime: Runtime,
    planner: Planner,
    destination: Destination,
    held: _Held,
    error: DeliveryError | None,
) -> str | None:
    """Write the row's end, or when it is tried again; the end state, if it has one."""
    row, claimed, session, now = held.row, held.claimed, planner.session, planner.now
    state = _end_state(row, claimed, error, now)
    if error is None:
        leases.finish(session, _TABLE, claimed, state=DONE, sent_at=now, error=None)
    elif state is not None:
        unsure = row.unsure or error.unknown
        leases.finish(session, _TABLE, claimed, state=state, error=error.reason, unsure=unsure)
        _tell_operators(runtime, planner, row, error.reason)
    else:
        if error.retry_after is not None:
            until = now + max(timedelta(seconds=error.retry_after), _SHORTEST_PAUSE)
            budgets.block(session, _lock_key(destination.name), until)
        else:
            until = now + (_AFTER_UNKNOWN if error.unknown else backoff.after(claimed.attempt))
        leases.postpone(
            session, _TABLE, claimed, until,
            state=PENDING, error=error.reason, unsure=row.unsure or error.unknown,
        )  # fmt: skip
    return state


def _end_state(
    row: Delivery, claimed: Claim, error: DeliveryError | None, now: datetime
) -> str | None:
    """The state that an attempt ends in; None to be tried again."""
    if error is None:
        return DONE
    if error.unknown and (row.unsure or claimed.vanished or error.permanent):
        return UNKNOWN  # repeated once already: once more would be noise
    if error.permanent:
        return DEAD
    if error.retry_after is not None:
        return DEAD if now - row.created_at > _LONGEST_PAUSED else None
    return DEAD if claimed.attempt >= MOST_ATTEMPTS else None


def _bury(runtime: Runtime, row: Delivery) -> None:
    with runtime.database.transaction() as session:
        now = runtime.database.now(session)
        won = leases.claim(session, _TABLE, [row.id], now=now, lease=MARGIN)
        for claimed in won:
            leases.finish(
                session, _TABLE, claimed, state=DEAD, error="no such destination is configured"
            )


def _tell_operators(runtime: Runtime, planner: Planner, row: Delivery, reason: str) -> None:
    if row.type == OPERATORS:  # a notice about a notice would never end
        return
    others = [name for name in runtime.policy.routing.operators() if name != row.destination]
    planner.notice(
        others,
        f"dead:{row.destination}",
        event_id=row.event_id,
        detail=f"{row.destination} could not be told of a code or a balance: {reason}. "
        f"Look: codecatch deliveries list --state dead; then: codecatch deliveries retry {row.id}",
    )
