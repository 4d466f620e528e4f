"""The inbox: every authentic webhook, sealed, exactly once.

A unique key of provider and event key tells new from seen: there is no look before the insert.
What is stored is the raw body, so that an event our reader could not read is read again once it
can.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

from sqlalchemy import Index, LargeBinary, Table, UniqueConstraint, select, text, tuple_
from sqlmodel import Field, Session
from ulid import ULID

from receiver import clock
from receiver.database import UtcTime, insert_unless_taken
from receiver.followups import GRACE, FollowUp, followup_indexes
from receiver.vault import Vault

PENDING = "pending"
HANDLED = "handled"
FAILED = "failed"
QUARANTINED = "quarantined"
IGNORED = "ignored"
# Where an event comes from: its provider sent it, or was asked.
WEBHOOK = "webhook"
RECONCILED = "reconciled"
_OPEN_STATES = text("state <> 'handled'")


class InboxEvent(FollowUp, table=True):
    """One webhook as it came, and what became of it.

    ``received_at`` is the provider's clock; ``arrived_at`` is when the request was whole,
    ``stored_at`` when the transaction that keeps it wrote it (its commit follows),
    ``handled_at`` when its effects were written. ``source`` is
    ``webhook`` or ``reconciled``. ``code_id`` is the code it reported, first or again.
    """

    __tablename__ = "inbox_events"
    __table_args__ = (
        UniqueConstraint("provider", "key", name="uq_inbox_events_key"),
        Index(
            "ix_inbox_events_open", "state", "id",
            sqlite_where=_OPEN_STATES, postgresql_where=_OPEN_STATES,
        ),
        Index("ix_inbox_events_order", "order_id"),
        *followup_indexes("inbox_events"),
    )  # fmt: skip

    id: str = Field(primary_key=True)
    provider: str
    key: str
    body_digest: str
    body: bytes | None = Field(default=None, sa_type=LargeBinary)
    source: str = Field(default=WEBHOOK)
    type: str | None = Field(default=None)
    state: str = Field(default=PENDING)
    error: str | None = Field(default=None)
    notes: str | None = Field(default=None)
    order_id: str | None = Field(default=None)
    code_id: str | None = Field(default=None)
    received_at: datetime | None = Field(default=None, sa_type=UtcTime)
    arrived_at: datetime = Field(sa_type=UtcTime)
    stored_at: datetime = Field(sa_type=UtcTime)
    handled_at: datetime | None = Field(default=None, sa_type=UtcTime)


INBOX: Table = InboxEvent.__table__  # type: ignore[attr-defined]


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrival:
    """An authentic webhook on its way into the inbox.

    ``key`` is the sender's own id of the event; without one, the body stands for it. ``test``
    marks a provider's test event, which is stored and has no effects.
    """

    provider: str
    body: bytes = field(repr=False)
    arrived_at: datetime
    key: str | None = None
    test: bool = False
    notes: tuple[str, ...] = ()
    source: str = WEBHOOK


@dataclass(frozen=True, slots=True)
class Stored:
    """Where an arrival ended: the id of its row, or of the first row that it repeats."""

    id: str
    duplicate: bool


@dataclass(frozen=True, slots=True)
class _Row:
    """One arrival with everything by which it can be told from others."""

    id: str
    key: str
    digest: str
    arrival: Arrival
    conflicts_with: str | None = None

    @property
    def place(self) -> tuple[str, str]:
        return (self.arrival.provider, self.key)


def store_many(session: Session, vault: Vault, arrivals: Sequence[Arrival]) -> list[Stored]:
    """Write what is new of ``arrivals`` in one statement; one outcome each, in their order.

    An arrival under a known key with another body is kept as well, quarantined under a key of
    its own (``key#digest``), since one of the two is not what the provider sent.
    """
    rows = [_identify(vault, arrival) for arrival in arrivals]
    outcomes = _insert(session, vault, rows)
    strangers = [
        (index, replace(row, key=f"{row.key}#{row.digest}", conflicts_with=outcome.first_id))
        for index, (row, outcome) in enumerate(zip(rows, outcomes, strict=True))
        if outcome.first_digest != row.digest
    ]
    stored = [Stored(o.first_id, o.first_id != r.id) for o, r in zip(outcomes, rows, strict=True)]
    kept_apart = _insert(session, vault, [row for _, row in strangers])
    for (index, row), outcome in zip(strangers, kept_apart, strict=True):
        stored[index] = Stored(outcome.first_id, outcome.first_id != row.id)
    return stored


@dataclass(frozen=True, slots=True)
class _Outcome:
    first_id: str
    first_digest: str


def _identify(vault: Vault, arrival: Arrival) -> _Row:
    digest = vault.digest("body", arrival.body)
    return _Row(str(ULID()), arrival.key or f"body:{digest}", digest, arrival)


def _insert(session: Session, vault: Vault, rows: Sequence[_Row]) -> list[_Outcome]:
    """Insert the first row of each key, unless the key is taken; tell who holds each key now."""
    if not rows:
        return []
    firsts: dict[tuple[str, str], _Row] = {}
    for row in rows:
        firsts.setdefault(row.place, row)
    # Sorted: two transactions that insert equal keys in another order deadlock on PostgreSQL.
    values = [_values(vault, firsts[place]) for place in sorted(firsts)]
    insert = insert_unless_taken(session, INBOX, index=["provider", "key"])
    # As parameters, and not as part of the statement, which would be compiled anew each time.
    won = set(session.connection().scalars(insert.returning(INBOX.c.id), values))
    holders = {
        place: _Outcome(row.id, row.digest) for place, row in firsts.items() if row.id in won
    }
    taken = [place for place in firsts if place not in holders]
    if taken:
        found = session.connection().execute(
            select(INBOX.c.provider, INBOX.c.key, INBOX.c.id, INBOX.c.body_digest).where(
                tuple_(INBOX.c.provider, INBOX.c.key).in_(taken)
            )
        )
        holders |= {(p, k): _Outcome(first_id, digest) for p, k, first_id, digest in found}
    return [holders[row.place] for row in rows]


def _values(vault: Vault, row: _Row) -> dict[str, object]:
    arrival, stored_at = row.arrival, clock.now()
    error, state = None, IGNORED if arrival.test else PENDING
    if row.conflicts_with is not None:
        state = QUARANTINED
        error = f"the same event id as {row.conflicts_with}, with another body"
    return {
        "id": row.id,
        "provider": arrival.provider,
        "key": row.key,
        "body_digest": row.digest,
        "body": vault.seal(arrival.body, table=INBOX.name, column="body", row=row.id),
        "source": arrival.source,
        "type": None,
        "state": state,
        "error": error,
        "notes": "; ".join(arrival.notes) or None,
        "arrived_at": arrival.arrived_at,
        "stored_at": stored_at,
        "handled_at": stored_at if state == IGNORED else None,
        "attempt": 0,
        "vanished": 0,
        "next_attempt_at": stored_at,
        # A quarantined row still has something left to do: the operators are to be told.
        "wake_at": None if state == IGNORED else stored_at + GRACE,
    }


def open_body(vault: Vault, event: InboxEvent) -> bytes | None:
    """The raw body of a stored event; None after it was purged."""
    if event.body is None:
        return None
    return vault.open(event.body, table=INBOX.name, column="body", row=event.id)
