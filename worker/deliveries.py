"""Telling destinations: claim a message, send it, record how that ended, go on with the next.

At most :data:`~worker.delivery_claims.IN_HAND` messages to one destination are being sent at
once, so that a slow one holds nobody else up; whoever finishes one takes the destination's next.
An answer that never came is repeated once and marked, unless the destination's owner would
rather have a person look: a doubled message is better than a lost code.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import structlog
from sqlalchemy.exc import SQLAlchemyError
from sqlmodel import col, select

from receiver import queue
from receiver.database import persist
from receiver.failpoints import reach
from worker import delivery_choice, delivery_claims, delivery_endings, delivery_recipients, leases
from worker.delivery_claims import Message, Told, Turn
from worker.delivery_desk import Desk
from worker.delivery_endings import Ending
from worker.delivery_waits import ANY
from worker.destinations.base import DeliveryError, Destination
from worker.followups import Planner
from worker.leases import MARGIN
from worker.messages import Notification
from worker.models import DEAD, PENDING, Delivery, table_of
from worker.runtime import Runtime

# After this long a task leaves the rest of a destination's rows to another.
_CHAIN_SECONDS = 10.0
_TABLE = table_of(Delivery)
_log = structlog.get_logger(__name__)


def deliver(runtime: Runtime, ids: Sequence[str]) -> None:
    """Tell the destinations of those of the deliveries ``ids`` that wait, what waits for each."""
    with runtime.database.reading() as session:
        now = runtime.database.now(session)
        rows = session.exec(
            select(Delivery).where(
                col(Delivery.id).in_(ids),
                leases.available(_TABLE, now),
            )
        ).all()
    # Most of a message's rows are ended, or in hand, by the time it is read.
    waiting: dict[str, list[str]] = {}
    for row in rows:
        waiting.setdefault(row.destination, []).append(row.id)
    for name, of_one in waiting.items():
        destination = runtime.outside.destinations.get(name)
        if destination is None:
            _bury(runtime, of_one)
        else:
            _chain(runtime, destination)


def _chain(runtime: Runtime, destination: Destination) -> None:
    """Send one message after the other; how one ended and which is next are one transaction."""
    until = time.monotonic() + _CHAIN_SECONDS
    taken = _take(runtime, destination)
    while taken is not None:
        may_wait = time.monotonic() < until
        if isinstance(taken, Turn):
            time.sleep(taken.seconds)
            taken = _take(runtime, destination, may_wait=may_wait, waited=True)
        else:
            with structlog.contextvars.bound_contextvars(message_id=taken.id):
                reach("deliveries.after_claim")
                error = _send(runtime, destination, taken)
                reach("deliveries.after_send")
                taken = _record(runtime, destination, taken, error, go_on=may_wait)


def _take(runtime: Runtime, destination: Destination, **waiting: bool) -> Message | Turn | None:
    with runtime.database.transaction() as session:
        desk = Desk.open(runtime, session, destination)
        taken = delivery_claims.take(desk, **waiting)
    desk.planner.wake(runtime.waker)
    return taken


def _send(runtime: Runtime, destination: Destination, message: Message) -> DeliveryError | None:
    """Tell the destination; what went wrong, if something did."""
    first = message.told[0].claimed
    if first.given_up:
        return DeliveryError("processes died while sending it", permanent=True, unknown=True)
    if first.vanished and runtime.outside.policies[destination.name].on_unknown == "hold":
        return DeliveryError("a process died while sending it", unknown=True)
    sayable = [
        told.notification for told in message.told if isinstance(told.notification, Notification)
    ]
    only = None
    if message.recipient is not None:
        address = delivery_recipients.address_of(runtime.vault, destination, message.recipient)
        if address is None:
            return delivery_recipients.GONE
        only = [address]
    try:
        if sayable:
            destination.send(sayable, only=only)
    except DeliveryError as refused:
        return refused
    except Exception as broken:  # noqa: BLE001 - a bug in one destination must not stop others
        _log.exception("destination.broke", destination=destination.name)
        return DeliveryError(f"the destination broke: {type(broken).__name__}", unknown=True)
    return None


def _record(
    runtime: Runtime,
    destination: Destination,
    message: Message,
    error: DeliveryError | None,
    *,
    go_on: bool,
) -> Message | Turn | None:
    """Write how a sending ended; the destination's next message in hand, if it is to go on."""

    def write() -> tuple[list[tuple[Told, Ending]], Planner, Message | Turn | None, list[str]]:
        with runtime.database.transaction() as session:
            desk = Desk.open(runtime, session, destination)
            ended = delivery_endings.write(desk, message, error)
            if go_on:
                return ended, desk.planner, _take_next(desk), []
            left = delivery_choice.candidates(session, destination.name, desk.now, 1, ANY)
            return ended, desk.planner, None, [each.id for each in left]

    ended, planner, following, left = persist(write)
    reach("deliveries.after_record")
    planner.wake(runtime.waker)
    runtime.waker.wake(queue.DELIVER, left, group=destination.name)
    _say(destination, message, ended)
    return following


def _take_next(desk: Desk) -> Message | Turn | None:
    # Whatever keeps the next message from being claimed must not take back the record before it.
    try:
        with desk.session.begin_nested():
            return delivery_claims.take(desk)
    except SQLAlchemyError as error:
        _log.warning("delivery.claim_failed", error=type(error).__name__)
        return None


def _say(destination: Destination, message: Message, ended: Sequence[tuple[Told, Ending]]) -> None:
    for told, ending in ended:
        log: Callable[..., Any] = _log.info if ending.error is None else _log.warning
        log(
            "delivery.attempted",
            delivery_id=told.row.id,
            event_id=told.row.event_id,
            destination=destination.name,
            state=ending.state or PENDING,
            attempt=told.claimed.attempt,
            reason=ending.reason,
        )
    kept = {told.row.id for told, _ in ended}
    for told in message.told:
        if told.row.id not in kept:
            _log.warning(
                "delivery.lease_lost", delivery_id=told.row.id, attempt=told.claimed.attempt
            )


def _bury(runtime: Runtime, ids: Sequence[str]) -> None:
    with runtime.database.transaction() as session:
        now = runtime.database.now(session)
        won = leases.claim(session, _TABLE, ids, now=now, lease=MARGIN)
        if won:
            reason = "no such destination is configured"
            leases.write_each(session, _TABLE, won, None, state=DEAD, error=reason)
