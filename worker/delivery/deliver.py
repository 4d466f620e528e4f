"""Telling destinations: claim messages, send them, record how that ended, go on with the next.

Only so many messages to one destination are being sent at once, so that a slow one holds nobody
else up. An answer that never came is repeated once and marked, unless the destination's owner
would rather have a person look: a doubled message is better than a lost code.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final

import structlog
from sqlalchemy import String, bindparam, select
from sqlalchemy.exc import SQLAlchemyError

from receiver import logs, queue
from receiver.database.engine import persist
from receiver.failpoints import reach
from worker.delivery import claim as claims
from worker.delivery import outcome as outcomes
from worker.delivery import recipients, selection
from worker.delivery.claim import Message, Told
from worker.delivery.deferral import ANY
from worker.delivery.destination_lock import LockedDestination
from worker.delivery.outcome import Ending
from worker.delivery.sender_pool import Landed, Round, SenderPool, Turn
from worker.destinations.base import DeliveryError, Destination
from worker.messages.text import Notification
from worker.outbox import leases
from worker.outbox.leases import MARGIN
from worker.outbox.planner import Planner
from worker.runtime.runtime import Runtime
from worker.schema.models import Delivery, table_of
from worker.schema.states import DEAD, DONE, PENDING

_TABLE = table_of(Delivery)
# Most of a message's rows are ended, or in hand, by the time it is read.
_WAITING: Final = select(_TABLE.c.id, _TABLE.c.destination).where(
    _TABLE.c.id.in_(bindparam("ids", expanding=True, type_=String)), leases.available(_TABLE)
)
_Ended = list[tuple[Told, Ending]]
_log = structlog.get_logger(__name__)


def deliver(runtime: Runtime, ids: Sequence[str], senders: SenderPool) -> None:
    """Tell the destinations of those of the deliveries ``ids`` that wait, what waits for each."""
    with runtime.database.reading() as session:
        bound = {**leases.times(runtime.database.now(session)), "ids": ids}
        rows = session.connection().execute(_WAITING, bound).all()
    waiting: dict[str, list[str]] = {}
    for row, name in rows:
        waiting.setdefault(name, []).append(row)
    for name, of_one in waiting.items():
        destination = runtime.integrations.destinations.get(name)
        if destination is None:
            _bury(runtime, of_one)
        else:
            senders.work(
                name,
                runtime.integrations.policies[name].most_in_hand,
                partial(_carry, runtime, destination),
                partial(_step, runtime, destination),
            )


def _carry(runtime: Runtime, destination: Destination, message: Message) -> DeliveryError | None:
    with structlog.contextvars.bound_contextvars(message_id=message.id):
        reach("deliveries.after_claim")
        try:
            error = _send(runtime, destination, message)
        except Exception as broken:  # noqa: BLE001 - a bug about one message must not stop others
            _log.exception("destination.broke", destination=destination.name)
            error = DeliveryError(f"the destination broke: {type(broken).__name__}", unknown=True)
        reach("deliveries.after_send")
        return error


def _send(runtime: Runtime, destination: Destination, message: Message) -> DeliveryError | None:
    """Tell the destination; what went wrong, if something did."""
    first = message.told[0].claimed
    if first.given_up_calling:
        return DeliveryError("processes died while sending it", permanent=True, unknown=True)
    if first.vanished and runtime.integrations.policies[destination.name].on_unknown == "hold":
        return DeliveryError("a process died while sending it", unknown=True)
    sayable = [
        told.notification for told in message.told if isinstance(told.notification, Notification)
    ]
    only = None
    if message.recipient is not None:
        address = recipients.address_of(runtime.vault, destination, message.recipient)
        if address is None:
            return recipients.GONE
        only = [address]
    try:
        if sayable:
            destination.send(sayable, only=only)
    except DeliveryError as refused:
        return refused
    return None


def _step(
    runtime: Runtime,
    destination: Destination,
    landed: Sequence[Landed[Message]],
    following: Round,
) -> Sequence[Message] | Turn:
    """Write how some sendings ended; what is in hand next, if the leader goes on."""

    def write() -> tuple[list[_Ended], Planner, Sequence[Message] | Turn, list[str]]:
        with LockedDestination.open(runtime, destination) as desk:
            ended = outcomes.write(desk, [(each.message, each.error) for each in landed])
            if (following.goes_on or following.waited) and following.places > 0:
                claim = partial(claims.take, desk, following)
                return ended, desk.planner, _guarded(desk, claim) if landed else claim(), []
            if following.goes_on:
                return ended, desk.planner, (), []
            left = selection.candidates(desk.session, destination.name, desk.now, 1, ANY)
            return ended, desk.planner, (), [each.id for each in left]

    ended, planner, taken, left = persist(write) if landed else write()
    if landed:
        reach("deliveries.after_record")
    planner.wake(runtime.waker)
    runtime.waker.wake(queue.DELIVER, left, group=destination.name)
    _say(destination, [each.message for each in landed], ended)
    return taken


def _guarded(
    desk: LockedDestination, claim: Callable[[], Sequence[Message] | Turn]
) -> Sequence[Message] | Turn:
    # Whatever keeps the next messages from being claimed must not take back the record before it.
    try:
        with desk.apart():
            return claim()
    except SQLAlchemyError as error:
        _log.warning("delivery.claim_failed", error=type(error).__name__)
        return ()


def _say(destination: Destination, messages: Sequence[Message], ended: Sequence[_Ended]) -> None:
    """A line for each attempt, and for each row that somebody else has by now."""
    usual = [told for ends in ended for told, ending in ends if ending.state == DONE]
    written = logs.write_told(
        destination.name,
        [(told.row.id, told.row.event_id, told.claimed.attempt) for told in usual],
    )
    for message, ends in zip(messages, ended, strict=True):
        for told, ending in ends:
            if not (written and ending.state == DONE):
                _say_one(destination, told, ending)
        kept = {told.row.id for told, _ in ends}
        for told in message.told:
            if told.row.id not in kept:
                _log.warning(
                    "delivery.lease_lost", delivery_id=told.row.id, attempt=told.claimed.attempt
                )


def _say_one(destination: Destination, told: Told, ending: Ending) -> None:
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


def _bury(runtime: Runtime, ids: Sequence[str]) -> None:
    with runtime.database.transaction() as session:
        now = runtime.database.now(session)
        won = leases.claim(session, _TABLE, ids, now=now, lease=MARGIN)
        if won:
            reason = "no such destination is configured"
            leases.write_each(session, _TABLE, won, None, state=DEAD, error=reason)
