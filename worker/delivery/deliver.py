"""Delivers to destinations: claims messages, sends them, records outcomes, goes on with the next.

The number of messages in flight to one destination is limited, so that a slow destination does
not delay the others. When an answer never came, the message is repeated once and marked, unless
the destination's owner set ``on_unknown`` to ``hold``: a duplicate is better than a lost code.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from functools import partial
from typing import Any, Final

import structlog
from sqlalchemy import String, bindparam, select

from receiver import logs, queue
from receiver.database.engine import persist
from receiver.failpoints import reach
from worker.delivery import claim as claims
from worker.delivery import deferral, recipients, selection
from worker.delivery import outcome as outcomes
from worker.delivery.claim import ClaimedDelivery, Message
from worker.delivery.deferral import ANY
from worker.delivery.destination_lock import LockedDestination
from worker.delivery.outcome import Outcome
from worker.delivery.selection import Candidate
from worker.delivery.sender_pool import ClaimRequest, FinishedSend, SenderPool, Throttled
from worker.destinations.base import DeliveryError, Destination
from worker.messages.text import Notification
from worker.outbox import clock_jumps, leases
from worker.outbox.leases import MARGIN
from worker.outbox.planner import Planner, planning
from worker.runtime.runtime import Runtime
from worker.schema.models import Delivery, table_of
from worker.schema.states import PENDING

_TABLE = table_of(Delivery)
# By the time a queue message is read, most of its rows are done or claimed.
_AVAILABLE: Final = select(
    _TABLE.c.id, _TABLE.c.destination, _TABLE.c.event_id, _TABLE.c.lease_until
).where(_TABLE.c.id.in_(bindparam("ids", expanding=True, type_=String)), leases.claimable(_TABLE))
_Outcomes = list[tuple[ClaimedDelivery, Outcome]]
_log = structlog.get_logger(__name__)


def deliver(runtime: Runtime, ids: Sequence[str], senders: SenderPool) -> list[Future[None]]:
    """Deliver what waits for each destination of the deliveries ``ids`` that are available.

    Each destination has threads of its own: this does not wait for them, and returns their ends.
    """
    with runtime.database.reading() as session:
        bound = {**leases.times(runtime.database.now(session)), "ids": ids}
        rows = session.connection().execute(_AVAILABLE, bound).all()
    dispatched = []
    for name in dict.fromkeys(row.destination for row in rows):
        destination = runtime.integrations.destinations.get(name)
        if destination is None:
            _keep(runtime, name, [row for row in rows if row.destination == name])
        else:
            end = senders.dispatch(
                name,
                runtime.integrations.policies[name].max_in_flight,
                partial(_send_guarded, runtime, destination),
                partial(_step, runtime, destination),
            )
            dispatched.append(end)
    return dispatched


def _send_guarded(
    runtime: Runtime, destination: Destination, message: Message
) -> DeliveryError | None:
    with structlog.contextvars.bound_contextvars(message_id=message.id):
        reach("deliveries.after_claim")
        try:
            error = _send(runtime, destination, message)
        except Exception as crash:  # noqa: BLE001 - a bug in one destination must not stop others
            _log.exception("destination.crashed", destination=destination.name)
            error = DeliveryError(f"the destination crashed: {type(crash).__name__}", unknown=True)
        reach("deliveries.after_send")
        return error


def _send(runtime: Runtime, destination: Destination, message: Message) -> DeliveryError | None:
    """Send the message; return the error if that failed."""
    first = message.deliveries[0].claimed
    if first.is_poison_among_calls:
        return DeliveryError(
            "several processes died while sending it", permanent=True, unknown=True
        )
    if first.vanished and runtime.integrations.policies[destination.name].on_unknown == "hold":
        return DeliveryError("a process died while sending it", unknown=True)
    notifications = [
        each.notification
        for each in message.deliveries
        if isinstance(each.notification, Notification)
    ]
    only = None
    if message.recipient is not None:
        address = recipients.address_of(runtime.vault, destination, message.recipient)
        if address is None:
            return recipients.RECIPIENT_REMOVED
        only = [address]
    try:
        if notifications and message.is_plain and destination.has_plain_text:
            destination.send_plain(notifications, only=only)
        elif notifications:
            destination.send(notifications, only=only)
    except DeliveryError as refused:
        return refused
    return None


def _step(
    runtime: Runtime,
    destination: Destination,
    finished: Sequence[FinishedSend[Message]],
    request: ClaimRequest,
) -> Sequence[Message] | Throttled:
    """Record finished messages and claim the next ones, in one transaction."""

    def record_and_claim() -> tuple[
        list[_Outcomes], Planner, Sequence[Message] | Throttled, list[Candidate]
    ]:
        claimed: Sequence[Message] | Throttled = ()
        left: list[Candidate] = []
        with LockedDestination.open(runtime, destination) as locked:
            recorded = outcomes.record(locked, [(each.message, each.error) for each in finished])
            if not request.has_time:
                left = selection.candidates(locked.session, destination.name, locked.now, 1, ANY)
            elif request.free_slots > 0:
                claimed = claims.claim_messages(locked, request)
        return recorded, locked.planner, claimed, left

    recorded, planner, claimed, left = persist(record_and_claim) if finished else record_and_claim()
    if finished:
        reach("deliveries.after_record")
    planner.wake(runtime.waker)
    runtime.waker.wake(queue.DELIVER, [each.id for each in left], group=destination.name)
    _log_outcomes(destination, [each.message for each in finished], recorded)
    return claimed


def _log_outcomes(
    destination: Destination, messages: Sequence[Message], recorded: Sequence[_Outcomes]
) -> None:
    """Log each attempt, and each row whose lease was lost."""
    lines = [_line(destination, each, outcome) for rows in recorded for each, outcome in rows]
    logs.info_all(_log, "delivery.attempted", [line for line in lines if line["reason"] is None])
    for line in lines:
        if line["reason"] is not None:
            _log.warning("delivery.attempted", **line)
    for message, rows in zip(messages, recorded, strict=True):
        still_leased = {delivery.row.id for delivery, _ in rows}
        for delivery in message.deliveries:
            if delivery.row.id not in still_leased:
                _log.warning(
                    "delivery.lease_lost",
                    delivery_id=delivery.row.id,
                    attempt=delivery.claimed.attempt,
                )


def _line(
    destination: Destination, delivery: ClaimedDelivery, outcome: Outcome
) -> dict[str, object]:
    return {
        "delivery_id": delivery.row.id,
        "event_id": delivery.row.event_id,
        "destination": destination.name,
        "state": outcome.state or PENDING,
        "attempt": delivery.claimed.attempt,
        "reason": outcome.reason,
    }


def _keep(runtime: Runtime, name: str, rows: Sequence[Any]) -> None:
    """Let the rows of a destination that is not configured wait for an operator, for a day.

    ``rows`` are those that woke; the others are postponed with them.
    """
    reason = f"{name} is not configured"
    with planning(runtime.database) as planner:
        session, now = planner.session, planner.now
        until = now + deferral.RECHECK
        # What a dead process had in hand may have been sent.
        abandoned = [row.id for row in rows if row.lease_until is not None]
        claims = leases.claim(
            session, _TABLE, abandoned, now=now, lease=MARGIN, include_expired=True
        )
        leases.release(session, _TABLE, claims, until, state=PENDING, error=reason, unsure=True)
        is_news = deferral.note(session, name, reason)
        if clock_jumps.is_steady(session, now):
            deferral.expire(
                session, name, now - deferral.MAX_AGE, f"{reason} and has not been for a day"
            )
        deferral.postpone(session, name, now, until)
        if is_news or claims:
            planner.plan_notice(
                runtime.policy.routing.operators(),
                f"unconfigured:{name}",
                event_id=rows[0].event_id,
                detail=f"Deliveries wait for {name}, which is not configured any more. For a day, "
                f"they can be moved: codecatch deliveries move --from {name} --to NAME, or "
                f"dropped: codecatch deliveries drop --from {name}",
            )
    planner.wake(runtime.waker)
