"""Queries on the follow-ups of events: confirmations and deliveries."""

from __future__ import annotations

from collections.abc import Sequence

from sqlmodel import Session, col, select

from receiver.inbox.store import InboxEvent
from receiver.vault.sealing import Vault
from worker.queries.filters import Conditions, Filters, Row, differs, newest, of_event, span
from worker.schema.models import Confirmation, Delivery
from worker.schema.states import DONE

# An order has few events; if it has more, only the newest ones are searched.
_MAX_EVENTS = 1_000


def deliveries(session: Session, vault: Vault, filters: Filters) -> list[Row]:
    """The newest deliveries that match; provider, order, number and service apply to the event."""
    conditions = span(Delivery.id, Delivery.created_at, filters)
    if filters.state is not None:
        conditions += in_states([filters.state])
    events = of_event(session, vault, filters)
    if filters.order is not None or filters.phone is not None:
        # Few events match: find them first, then their deliveries by event id.
        few = select(InboxEvent.id).where(*events).order_by(col(InboxEvent.id).desc())
        found = session.exec(few.limit(_MAX_EVENTS)).all()
        conditions.append(col(Delivery.event_id).in_(found))
    elif events:
        # Many events match: scan the newest deliveries and check each one's event.
        joined = col(InboxEvent.id) == col(Delivery.event_id)
        conditions.append(select(InboxEvent.id).where(joined, *events).exists())
    statement = select(Delivery).where(*conditions)
    return [delivery(row) for row in newest(session, statement, Delivery.id, filters)]


def in_states(states: Sequence[str]) -> Conditions:
    """Deliveries in one of ``states``; a partial index covers all states but done."""
    conditions: Conditions = [col(Delivery.state).in_(states)]
    if DONE not in states:
        conditions.append(differs(col(Delivery.state), DONE))
    return conditions


def deliveries_of(session: Session, event_id: str) -> list[Row]:
    """All deliveries of one event, oldest first."""
    statement = select(Delivery).where(col(Delivery.event_id) == event_id)
    return [
        {**delivery(row), "type": row.type, "created_at": row.created_at}
        for row in session.exec(statement.order_by(col(Delivery.id)))
    ]


def confirmations_of(session: Session, event: InboxEvent) -> list[Row]:
    """All confirmations that one event caused, oldest first."""
    statement = select(Confirmation).where(
        col(Confirmation.provider) == event.provider,
        col(Confirmation.order_id) == event.order_id,
        col(Confirmation.event_id) == event.id,
    )
    return [confirmation(row) for row in session.exec(statement.order_by(col(Confirmation.id)))]


def delivery(row: Delivery) -> Row:
    """One delivery; ``next_attempt_at`` is None when no attempt is due."""
    return {
        "id": row.id,
        "event": row.event_id,
        "destination": row.destination,
        "state": row.state,
        "attempts": row.attempt,
        "next_attempt_at": None if row.wake_at is None else row.next_attempt_at,
        "sent_at": row.sent_at,
        "error": row.error,
    }


def confirmation(row: Confirmation) -> Row:
    """One confirmation; ``next_attempt_at`` is None when no attempt is due."""
    return {
        "id": row.id,
        "action": row.action,
        "event": row.event_id,
        "state": row.state,
        "attempts": row.attempt,
        "next_attempt_at": None if row.wake_at is None else row.next_attempt_at,
        "done_at": row.done_at,
        "error": row.error,
        "created_at": row.created_at,
    }
