"""Counts by state, backlog and latencies, computed on demand."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import datetime, timedelta

from sqlalchemy import Column, func, literal, sql, text
from sqlmodel import Session, col, select

from receiver.database.engine import Database
from receiver.database.heartbeats import PROBE, Heartbeat
from receiver.inbox.rejections import RejectedRequest
from receiver.inbox.store import FAILED, HANDLED, IGNORED, INBOX, PENDING, QUARANTINED, InboxEvent
from worker.queries.events import in_state
from worker.queries.filters import Row, differs, first_id
from worker.queries.followups import in_states
from worker.schema.models import Code, Confirmation, Delivery, Order, table_of
from worker.schema.states import (
    DEAD,
    DISCARDED,
    DIVERTED,
    DONE,
    HELD,
    OPERATORS,
    ORDER_STATES,
    READY,
    SENDING,
    UNKNOWN,
)

EVENT_STATES = (PENDING, HANDLED, FAILED, QUARANTINED, IGNORED)
CODE_STATES = (HELD, READY, QUARANTINED, DISCARDED)
CONFIRMATION_STATES = (PENDING, SENDING, DONE, DEAD, UNKNOWN)
DELIVERY_STATES = (*CONFIRMATION_STATES, DIVERTED)
_SAMPLE = 1_000
_PERCENTILES = (50, 95, 99)
# Counting millions of rows takes longer than the statement timeout of the webhook path.
_LONG_STATEMENT_TIMEOUT = text("SET LOCAL statement_timeout = '60s'")


def collect(database: Database, *, spooled: int) -> Row:
    """The statistics of ``codecatch stats``; latencies are in milliseconds.

    ``spooled`` is the number of acknowledged events that are not in the database yet.
    """
    with database.reading() as session:
        if database.is_postgresql:
            session.connection().execute(_LONG_STATEMENT_TIMEOUT)
        return {
            "events": _counts(session, INBOX.c.state, EVENT_STATES, usual=HANDLED),
            "orders": _counts(session, table_of(Order).c.status, ORDER_STATES, usual=None),
            "codes": _counts(session, table_of(Code).c.state, CODE_STATES, usual=READY),
            "confirmations": _counts(
                session, table_of(Confirmation).c.state, CONFIRMATION_STATES, usual=DONE
            ),
            "deliveries": _counts(session, table_of(Delivery).c.state, DELIVERY_STATES, usual=DONE),
            "oldest_unhandled_seconds": oldest_unhandled_seconds(session, database.now(session)),
            "acknowledged_unhandled": count_events(session, PENDING) + spooled,
            "spooled": spooled,
            "latency_ms": {**_latency_of_events(session), **_latency_of_deliveries(session)},
        }


def oldest_unhandled_seconds(session: Session, now: datetime) -> float:
    """Age of the oldest pending event in seconds; 0 if none is pending."""
    stored = session.exec(
        select(InboxEvent.stored_at).where(*in_state(PENDING)).order_by(col(InboxEvent.id)).limit(1)
    ).first()
    return 0.0 if stored is None else round(max((now - stored).total_seconds(), 0.0), 3)


def deliveries_by_destination(session: Session) -> list[tuple[str, str, int]]:
    """Destination, state and count, for every destination that has deliveries."""
    grouped = (
        select(Delivery.destination, Delivery.state, func.count())
        .group_by(col(Delivery.destination), col(Delivery.state))
        .order_by(col(Delivery.destination), col(Delivery.state))
    )
    return [(destination, state, count) for destination, state, count in session.exec(grouped)]


def heartbeat_ages(session: Session, now: datetime) -> list[tuple[str, float]]:
    """Seconds since the last heartbeat of each part."""
    parts = select(Heartbeat).where(col(Heartbeat.part) != PROBE).order_by(col(Heartbeat.part))
    rows = session.exec(parts)
    return [(row.part, max((now - row.seen_at).total_seconds(), 0.0)) for row in rows]


def count_events(session: Session, state: str) -> int:
    """Number of events in ``state``, which is any state but handled."""
    counted = select(func.count()).select_from(InboxEvent).where(*in_state(state))
    return session.exec(counted).one()


def count_deliveries(session: Session, states: Sequence[str]) -> int:
    """Number of deliveries in one of ``states``."""
    counted = select(func.count()).select_from(Delivery).where(*in_states(states))
    return session.exec(counted).one()


def count_stale(session: Session, since: datetime) -> int:
    """Number of webhooks since then whose timestamp was far from our clock."""
    counted = select(func.count()).select_from(InboxEvent)
    noted = col(InboxEvent.notes).contains("Timestamp")
    return session.exec(counted.where(col(InboxEvent.id) >= first_id(since), noted)).one()


def reasons_of_rejections(session: Session, since: datetime) -> list[tuple[str, str, int]]:
    """Provider, reason and count of requests rejected since then, most frequent first."""
    number = func.count().label("number")
    grouped = (
        select(RejectedRequest.provider, RejectedRequest.reason, number)
        .where(col(RejectedRequest.id) >= first_id(since))
        .group_by(col(RejectedRequest.provider), col(RejectedRequest.reason))
        .order_by(number.desc(), col(RejectedRequest.reason))
    )
    return [(provider, reason, count) for provider, reason, count in session.exec(grouped)]


def rejections_with(session: Session, status: int, since: datetime) -> dict[str, int]:
    """Count of requests rejected with ``status`` since then, by provider."""
    counted = (
        select(RejectedRequest.provider, func.count())
        .where(col(RejectedRequest.id) >= first_id(since), RejectedRequest.status == status)
        .group_by(col(RejectedRequest.provider))
    )
    return dict(session.exec(counted).all())


def _counts(
    session: Session, state: Column[str], states: Sequence[str], *, usual: str | None
) -> dict[str, int]:
    """Number of rows in each state; ``usual`` is the state that the partial index excludes."""
    found = dict.fromkeys(states, 0)
    counted = sql.select(state, func.count()).group_by(state)
    if usual is None:
        return {**found, **dict(session.connection().execute(counted).all())}
    # The partial index excludes the usual state: count it as the total less the others.
    total = sql.select(literal(usual), func.count()).select_from(state.table)
    both = sql.union_all(counted.where(differs(state, usual)), total)
    found |= dict(session.connection().execute(both).all())
    found[usual] -= sum(number for name, number in found.items() if name != usual)
    return found


def _latency_of_events(session: Session) -> Row:
    rows = session.exec(
        select(InboxEvent.arrived_at, InboxEvent.stored_at, InboxEvent.handled_at)
        .where(col(InboxEvent.state) == HANDLED)
        .order_by(col(InboxEvent.id).desc())
        .limit(_SAMPLE)
    ).all()
    return {
        "arrived_to_stored": _percentiles([stored - arrived for arrived, stored, _ in rows]),
        "stored_to_handled": _percentiles([end - stored for _, stored, end in rows if end]),
    }


def _latency_of_deliveries(session: Session) -> Row:
    rows = session.exec(
        select(InboxEvent.arrived_at, Delivery.created_at, Delivery.claimed_at, Delivery.sent_at)
        .join(InboxEvent, col(InboxEvent.id) == col(Delivery.event_id))
        .where(col(Delivery.state) == DONE, col(Delivery.type) != OPERATORS)
        .order_by(col(Delivery.id).desc())
        .limit(_SAMPLE)
    ).all()
    waiting = [claimed - created for _, created, claimed, _ in rows if claimed]
    sending = [sent - claimed for _, _, claimed, sent in rows if claimed and sent]
    total = [sent - arrived for arrived, _, _, sent in rows if sent]
    return {
        "planned_to_claimed": _percentiles(waiting),
        "claimed_to_sent": _percentiles(sending),
        "arrived_to_sent": _percentiles(total),
    }


def _percentiles(spans: Sequence[timedelta]) -> dict[str, float | None]:
    """Nearest-rank percentiles in milliseconds; None without samples."""
    ordered = sorted(max(span.total_seconds(), 0.0) * 1000 for span in spans)

    def at(percent: int) -> float | None:
        if not ordered:
            return None
        return round(ordered[math.ceil(percent / 100 * len(ordered)) - 1], 3)

    return {f"p{percent}": at(percent) for percent in _PERCENTILES}
