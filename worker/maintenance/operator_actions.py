"""What operators change: replay, release, discard, retry.

Each function works on one row within the caller's transaction, refuses before it writes, and
leaves effects that were done as they are. Wake what it put back to work after the commit.
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
from worker.schema.states import CODE_QUARANTINED, DEAD, DISCARDED, HELD, READY, UNKNOWN

DISCARDED_BY_OPERATOR = "discarded by an operator"
BATCH = 1_000
_PURGED = "its body was purged, so there is nothing to read again"
_DELIVERIES = table_of(Delivery)
_CONFIRMATIONS = table_of(Confirmation)
_RETRIED = frozenset({PENDING, DEAD, UNKNOWN})


class Refused(CodecatchError):
    """The row cannot be changed this way; the text says why, and what else can be done."""


def replay(session: Session, event_id: str, *, now: datetime) -> None:
    """Have an event handled again.

    Raises:
        Refused: it is unknown, quarantined, a provider's test, purged, or in hand.
    """
    event = _event(session, event_id)
    if event.state == QUARANTINED:
        raise Refused(f"event {event_id} is quarantined: release or discard it")
    if event.state == IGNORED and event.error is None:
        raise Refused(f"event {event_id} is a test of the provider's, which has no effects")
    if event.body is None:
        raise Refused(f"event {event_id}: {_PURGED}")
    code = session.get(Code, event.code_id) if event.code_id else None
    if code is not None and code.state == HELD:
        raise Refused(f"event {event_id}: the provider is being asked about its code")
    _revive(session, [event_id], now)
    _revive_confirmations(session, event_id, now)


def replay_failed(session: Session, filters: Filters, *, after: str, now: datetime) -> list[str]:
    """Have the oldest failed events with ids over ``after`` handled again, as far as they fit.

    Returns their ids, in order and at most :data:`BATCH` of them; none once there are no more.
    An event that fails again meanwhile lies behind ``after``, so that a caller's loop ends.
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
    return _revive(session, list(session.exec(oldest.with_for_update(skip_locked=True))), now)


def release(session: Session, event_id: str, *, now: datetime) -> None:
    """End a quarantine because the event is good, and have it handled again.

    A code that the provider did not vouch for is then told, marked as not verified. An event
    that came under a known id is handled as an event of its own.

    Raises:
        Refused: it is unknown, not quarantined, purged, or in hand.
    """
    event = _quarantined(session, event_id)
    if event.body is None:
        raise Refused(f"event {event_id}: {_PURGED}")
    code = _quarantined_code(session, event)
    if code is not None:
        code.state, code.verified = READY, False
        session.flush()
    _revive(session, [event_id], now)


def discard(session: Session, event_id: str, *, now: datetime) -> None:
    """End a quarantine because the event is not good: nobody will be told its code.

    Raises:
        Refused: it is unknown, not quarantined, or in hand.
    """
    event = _quarantined(session, event_id)
    code = _quarantined_code(session, event)
    if code is not None:
        code.state = DISCARDED
    _end(event, IGNORED, DISCARDED_BY_OPERATOR, now)


def retry(session: Session, delivery_id: str, *, now: datetime) -> str | None:
    """Have a delivery that was given up sent again, as if new; what stands in its way, if anything.

    Raises:
        Refused: it is unknown, was sent already, has nothing left to say, or is in hand.
    """
    row = session.exec(
        select(Delivery).where(col(Delivery.id) == delivery_id).with_for_update()
    ).first()
    if row is None:
        raise Refused(f"there is no delivery {delivery_id}")
    if row.state not in _RETRIED or row.lease_until is not None:
        why = "is being sent right now" if row.lease_until else f"is {row.state} already"
        raise Refused(f"delivery {delivery_id} {why}")
    code = session.get(Code, row.code_id) if row.code_id else None
    if code is not None and code.code is None:
        raise Refused(f"delivery {delivery_id}: its code was purged, so there is nothing to tell")
    leases.revive(
        session, _DELIVERIES, [delivery_id], now=now, state=PENDING, error=None, failures=0
    )
    destination = session.get(DestinationState, row.destination)
    if destination is None or destination.disabled_at is None:
        return None
    return (
        f"waits, since {row.destination} is disabled: codecatch destinations enable "
        f"{row.destination}"
    )


def _event(session: Session, event_id: str) -> InboxEvent:
    wanted = select(InboxEvent).where(col(InboxEvent.id) == event_id).with_for_update()
    event = session.exec(wanted).first()
    if event is None:
        raise Refused(f"there is no event {event_id}")
    if event.lease_until is not None:
        raise Refused(f"event {event_id} is being handled right now: try again in a moment")
    return event


def _quarantined(session: Session, event_id: str) -> InboxEvent:
    event = _event(session, event_id)
    if event.state != QUARANTINED:
        raise Refused(f"event {event_id} is {event.state}, not quarantined")
    return event


def _quarantined_code(session: Session, event: InboxEvent) -> Code | None:
    if event.code_id is None:
        return None
    wanted = select(Code).where(col(Code.id) == event.code_id).with_for_update()
    code = session.exec(wanted).first()
    return code if code is not None and code.state == CODE_QUARANTINED else None


def _revive(session: Session, ids: Sequence[str], now: datetime) -> list[str]:
    return leases.revive(session, INBOX, ids, now=now, state=PENDING, error=None, handled_at=None)


def _revive_confirmations(session: Session, event_id: str, now: datetime) -> None:
    """What was given up at the provider is tried again; what was done is not."""
    given_up = select(Confirmation.id).where(
        col(Confirmation.event_id) == event_id, col(Confirmation.state).in_([DEAD, UNKNOWN])
    )
    ids = list(session.exec(given_up))
    leases.revive(session, _CONFIRMATIONS, ids, now=now, state=PENDING, error=None)


def _end(event: InboxEvent, state: str, error: str | None, now: datetime) -> None:
    event.state, event.error = state, error
    event.handled_at = event.handled_at or now
    event.wake_at = None
