"""Operator actions on events and deliveries: replay, release, discard, retry.

Each function changes one row in the caller's transaction. It raises before it writes, and it does
not touch completed effects. The caller wakes the worker after the commit.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from sqlmodel import Session, col, select

from receiver.errors import CodecatchError
from receiver.inbox.store import FAILED, IGNORED, INBOX, PENDING, QUARANTINED, InboxEvent
from worker.outbox import leases
from worker.queries.events import in_state
from worker.queries.filters import Conditions, Filters, of_order, span
from worker.schema.models import Code, Confirmation, Delivery, DestinationState, table_of
from worker.schema.states import CODE_QUARANTINED, DEAD, DISCARDED, DIVERTED, HELD, READY, UNKNOWN

DISCARDED_BY_OPERATOR = "discarded by an operator"
BATCH = 1_000
_PURGED = "its body was purged, so it cannot be handled again"
_DELIVERIES = table_of(Delivery)
_CONFIRMATIONS = table_of(Confirmation)
_RETRYABLE = frozenset({PENDING, DEAD, UNKNOWN})


class ActionRefused(CodecatchError):
    """The action is not allowed on this row; the message says why and what to do instead."""


def replay(session: Session, event_id: str, now: datetime) -> None:
    """Make an event due again, and its confirmations that are dead or unknown.

    Raises:
        ActionRefused: the event does not exist, is quarantined, is a provider test, is purged, is
            leased, or its code is being verified.
    """
    event = _event(session, event_id)
    if event.state == QUARANTINED:
        raise ActionRefused(f"event {event_id} is quarantined; release or discard it instead")
    if event.state == IGNORED and event.error is None:
        raise ActionRefused(f"event {event_id} is a provider test event and has no effects")
    if event.body is None:
        raise ActionRefused(f"event {event_id}: {_PURGED}")
    code = session.get(Code, event.code_id) if event.code_id else None
    if code is not None and code.state == HELD:
        raise ActionRefused(
            f"event {event_id}: its code is being verified with the provider; try again later"
        )
    _requeue(session, [event_id], now)
    _requeue_confirmations(session, event_id, now)


def replay_failed(session: Session, filters: Filters, *, after: str, now: datetime) -> list[str]:
    """Make a batch of failed events due again: the oldest that match, with ids above ``after``.

    Returns at most :data:`BATCH` ids in ascending order; an empty list means that none are left.
    Pass the last id as the next ``after``: events that fail again meanwhile are then skipped, so
    the caller's loop ends.
    """
    conditions: Conditions = [
        *in_state(FAILED),
        col(InboxEvent.id) > after,
        *of_order(InboxEvent.provider, InboxEvent.order_id, filters),
        *span(InboxEvent.id, InboxEvent.stored_at, filters),
        col(InboxEvent.body).is_not(None),
        col(InboxEvent.lease_until).is_(None),
    ]
    oldest = select(InboxEvent.id).where(*conditions).order_by(col(InboxEvent.id)).limit(BATCH)
    return _requeue(session, list(session.exec(oldest.with_for_update(skip_locked=True))), now)


def release(session: Session, event_id: str, now: datetime) -> None:
    """End the quarantine of a genuine event and make it due again.

    A code that failed verification becomes ready with ``verified=False`` and is delivered. An
    event whose key was already in use is handled as a separate event.

    Raises:
        ActionRefused: the event does not exist, is not quarantined, is purged, or is leased.
    """
    event = _quarantined(session, event_id)
    if event.body is None:
        raise ActionRefused(f"event {event_id}: {_PURGED}")
    code = _quarantined_code(session, event)
    if code is not None:
        code.state, code.verified = READY, False
        session.flush()
    _requeue(session, [event_id], now)


def discard(session: Session, event_id: str, now: datetime) -> None:
    """End the quarantine of a bad event: its code is discarded and never delivered.

    Raises:
        ActionRefused: the event does not exist, is not quarantined, or is leased.
    """
    event = _quarantined(session, event_id)
    code = _quarantined_code(session, event)
    if code is not None:
        code.state = DISCARDED
    event.state, event.error = IGNORED, DISCARDED_BY_OPERATOR
    event.handled_at = event.handled_at or now
    event.wake_at = None


def retry(session: Session, delivery_id: str, now: datetime) -> str | None:
    """Make a delivery due again, with its failure count reset.

    Returns a message for the operator if the destination is disabled, else None.

    Raises:
        ActionRefused: the delivery does not exist, was sent, is leased, or its code was purged.
    """
    row = session.exec(
        select(Delivery).where(col(Delivery.id) == delivery_id).with_for_update()
    ).first()
    if row is None:
        raise ActionRefused(f"there is no delivery {delivery_id}")
    if row.state not in _RETRYABLE or row.lease_until is not None:
        why = "is being sent right now" if row.lease_until else f"is already {row.state}"
        if row.state == DIVERTED:
            why += f" ({row.error}); look for the delivery of that destination"
        raise ActionRefused(f"delivery {delivery_id} {why}")
    code = session.get(Code, row.code_id) if row.code_id else None
    if code is not None and code.code is None:
        raise ActionRefused(
            f"delivery {delivery_id}: its code was purged, so there is nothing to send"
        )
    leases.requeue(
        session, _DELIVERIES, [delivery_id], now=now,
        state=PENDING, error=None, failures=0, split_from=None, extra_sends=0,
    )  # fmt: skip
    destination = session.get(DestinationState, row.destination)
    if destination is None or destination.disabled_at is None:
        return None
    return (
        f"is pending, but {row.destination} is disabled; run codecatch destinations enable "
        f"{row.destination}"
    )


def _event(session: Session, event_id: str) -> InboxEvent:
    statement = select(InboxEvent).where(col(InboxEvent.id) == event_id).with_for_update()
    event = session.exec(statement).first()
    if event is None:
        raise ActionRefused(f"there is no event {event_id}")
    if event.lease_until is not None:
        raise ActionRefused(f"event {event_id} is being handled right now; try again in a moment")
    return event


def _quarantined(session: Session, event_id: str) -> InboxEvent:
    event = _event(session, event_id)
    if event.state != QUARANTINED:
        raise ActionRefused(f"event {event_id} is {event.state}, not quarantined")
    return event


def _quarantined_code(session: Session, event: InboxEvent) -> Code | None:
    if event.code_id is None:
        return None
    statement = select(Code).where(col(Code.id) == event.code_id).with_for_update()
    code = session.exec(statement).first()
    return code if code is not None and code.state == CODE_QUARANTINED else None


def _requeue(session: Session, ids: Sequence[str], now: datetime) -> list[str]:
    return leases.requeue(session, INBOX, ids, now=now, state=PENDING, error=None, handled_at=None)


def _requeue_confirmations(session: Session, event_id: str, now: datetime) -> None:
    """Make the event's dead and unknown confirmations due again; leave completed ones alone."""
    given_up = select(Confirmation.id).where(
        col(Confirmation.event_id) == event_id, col(Confirmation.state).in_([DEAD, UNKNOWN])
    )
    ids = list(session.exec(given_up))
    leases.requeue(session, _CONFIRMATIONS, ids, now=now, state=PENDING, error=None)
