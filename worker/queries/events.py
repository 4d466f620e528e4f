"""Queries on events and rejected requests."""

from __future__ import annotations

from sqlmodel import Session, col, select

from receiver.inbox import store as inbox
from receiver.inbox.rejections import RejectedRequest
from receiver.inbox.spool import EventAlias
from receiver.inbox.store import HANDLED, InboxEvent
from receiver.vault.sealing import Vault
from worker.queries import followups
from worker.queries.filters import Conditions, Filters, Row, differs, newest, of_event, span
from worker.schema.models import Code


def in_state(state: str) -> Conditions:
    """Events in one state; a partial index covers all states but handled."""
    conditions: Conditions = [col(InboxEvent.state) == state]
    if state != HANDLED:
        conditions.append(differs(col(InboxEvent.state), HANDLED))
    return conditions


def listed(session: Session, vault: Vault, filters: Filters) -> list[Row]:
    """The newest events that match."""
    conditions = [
        *of_event(session, vault, filters),
        *span(InboxEvent.id, InboxEvent.stored_at, filters),
        *(in_state(filters.state) if filters.state is not None else ()),
    ]
    statement = select(InboxEvent).where(*conditions)
    return [_row(event) for event in newest(session, statement, InboxEvent.id, filters)]


def one(session: Session, vault: Vault, event_id: str) -> Row | None:
    """One event with its raw body (None after a purge), code and follow-ups; None if unknown.

    The id of an event that was acknowledged and later found to be a duplicate resolves to the
    first event.
    """
    alias = session.get(EventAlias, event_id)
    event = session.get(InboxEvent, event_id if alias is None else alias.first_id)
    if event is None:
        return None
    body = inbox.open_body(vault, event)
    code = session.get(Code, event.code_id) if event.code_id else None
    return {
        **_row(event),
        "duplicates": sorted(
            session.exec(select(EventAlias.id).where(col(EventAlias.first_id) == event.id))
        ),
        "notes": event.notes,
        "code_id": event.code_id,
        "code_state": code and code.state,
        "first_event": code and code.event_id,
        "arrived_at": event.arrived_at,
        "next_attempt_at": None if event.wake_at is None else event.next_attempt_at,
        "confirmations": followups.confirmations_of(session, event),
        "deliveries": followups.deliveries_of(session, event.id),
        "body": None if body is None else body.decode("utf-8", "replace"),
    }


def rejected(session: Session, vault: Vault, filters: Filters) -> list[Row]:
    """The newest rejected requests that match."""
    conditions = span(RejectedRequest.id, RejectedRequest.at, filters)
    if filters.provider is not None:
        conditions.append(col(RejectedRequest.provider) == filters.provider)
    statement = select(RejectedRequest).where(*conditions)
    return [
        {
            "id": row.id,
            "at": row.at,
            "provider": row.provider,
            "status": row.status,
            "reason": row.reason,
            "origin": vault.open_text(
                row.origin, table=RejectedRequest.__tablename__, column="origin", row=row.id
            ),
        }
        for row in newest(session, statement, RejectedRequest.id, filters)
    ]


def _row(event: InboxEvent) -> Row:
    return {
        "id": event.id,
        "provider": event.provider,
        "type": event.type,
        "key": event.key,
        "state": event.state,
        "attempts": event.attempt,
        "error": event.error,
        "received_at": event.received_at,
        "stored_at": event.stored_at,
        "handled_at": event.handled_at,
        "order_id": event.order_id,
        "source": event.source,
    }
