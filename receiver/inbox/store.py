"""The inbox: every authentic webhook, sealed, exactly once.

A unique key of provider and event key tells new from seen: there is no look before the insert.
What is stored is the raw body, so that an event our reader could not read is read again once it
can.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from operator import attrgetter
from typing import Any

from sqlalchemy import Connection, Index, LargeBinary, Row, Table, UniqueConstraint, select, text
from sqlmodel import Field, Session

from receiver import clock
from receiver.database import bulk
from receiver.database.engine import UtcTime
from receiver.database.followup import GRACE, FollowUp, followup_indexes
from receiver.database.row_values import OneOf
from receiver.ids import new_ids
from receiver.vault.sealing import Vault

PENDING = "pending"
HANDLED = "handled"
FAILED = "failed"
QUARANTINED = "quarantined"
IGNORED = "ignored"
# Where an event comes from: its provider sent it, or was asked.
WEBHOOK = "webhook"
RECONCILED = "reconciled"
_KEY = ("provider", "key")
_OPEN_STATES = text("state <> 'handled'")
# What retention looks for: bodies that are still there, and those of them that report a code.
_WITH_BODY = text("body IS NOT NULL")
_WITH_CODE = text("body IS NOT NULL AND code_id IS NOT NULL")


class InboxEvent(FollowUp, table=True):
    """One webhook as it came, and what became of it.

    ``received_at`` is the provider's clock; ``arrived_at`` is when the request was whole,
    ``stored_at`` when it was written (its commit follows), ``handled_at`` when its effects were
    written. ``source`` is
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
        Index(
            "ix_inbox_events_body", "stored_at",
            sqlite_where=_WITH_BODY, postgresql_where=_WITH_BODY,
        ),
        Index(
            "ix_inbox_events_code", "stored_at",
            sqlite_where=_WITH_CODE, postgresql_where=_WITH_CODE,
        ),
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
_PLACES = OneOf("places", INBOX.c.provider, INBOX.c.key)
_HOLDERS = select(INBOX.c.provider, INBOX.c.key, INBOX.c.id, INBOX.c.body_digest).where(
    _PLACES.condition
)


@dataclass(slots=True, kw_only=True)
class IncomingEvent:
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


@dataclass(slots=True)
class StoreResult:
    """Where an arrival ended: the id of its row, or of the first row that it repeats."""

    id: str
    duplicate: bool


@dataclass(slots=True)
class InboxRow:
    """One event ready to be stored: the values of its row, sealed, its id among them."""

    values: Mapping[str, Any] = field(repr=False)

    @property
    def id(self) -> str:
        """The id that its row gets, unless the event was seen before."""
        return str(self.values["id"])

    @property
    def place(self) -> tuple[str, str]:
        """Provider and event key, by which it is new or seen."""
        return self.values["provider"], self.values["key"]

    @property
    def digest(self) -> str:
        """The keyed digest of its body."""
        return str(self.values["body_digest"])

    def kept_apart(self, first_id: str) -> InboxRow:
        """The same as a row of its own, quarantined: its key is known with another body."""
        changed = {
            "key": f"{self.values['key']}#{self.digest}",
            "state": QUARANTINED,
            "error": f"the same event id as {first_id}, with another body",
            "handled_at": None,
            # Something is left to do about it: the operators are to be told.
            "wake_at": self.values["stored_at"] + GRACE,
        }
        return InboxRow({**self.values, **changed})


def prepare(vault: Vault, incoming_events: Sequence[IncomingEvent]) -> list[InboxRow]:
    """What is to be stored of ``incoming_events``, one entry each, in their order."""
    now, ids = clock.now(), new_ids(len(incoming_events))
    return [
        InboxRow(_values(vault, incoming, row, now))
        for incoming, row in zip(incoming_events, ids, strict=True)
    ]


def store_many(
    session: Session, vault: Vault, incoming_events: Sequence[IncomingEvent]
) -> list[StoreResult]:
    """Write what is new of ``incoming_events``: :func:`store` for what is not prepared yet."""
    return store(session, prepare(vault, incoming_events))


def store(session: Session, entries: Sequence[InboxRow]) -> list[StoreResult]:
    """Write what is new of ``entries`` in one statement; one outcome each, in their order.

    An entry under a known key with another body is kept as well, quarantined under a key of
    its own (``key#digest``), since one of the two is not what the provider sent. Storing the
    same entries again changes nothing.
    """
    holders = _insert(session, entries)
    strangers = [
        (index, entry.kept_apart(holder.id))
        for index, (entry, holder) in enumerate(zip(entries, holders, strict=True))
        if holder.digest != entry.digest
    ]
    stored = [
        StoreResult(holder.id, holder.id != entry.id)
        for holder, entry in zip(holders, entries, strict=True)
    ]
    kept_apart = _insert(session, [entry for _, entry in strangers])
    for (index, entry), holder in zip(strangers, kept_apart, strict=True):
        stored[index] = StoreResult(holder.id, holder.id != entry.id)
    return stored


def insert_new(connection: Connection, entries: Sequence[InboxRow]) -> bool:
    """Insert ``entries`` that are thought to be new; whether they were, and all is done.

    Up to :data:`receiver.database.bulk.MOST_ROWS` entries take a single statement. If one was
    seen before, the others are written, and :func:`store` finishes the work.
    """
    rows = [entry.values for entry in sorted(entries, key=attrgetter("place"))]
    return bulk.insert_unless_taken(connection, INBOX, rows, index=_KEY) == len(rows)


@dataclass(frozen=True, slots=True)
class _Holder:
    """The row that holds a key: the first that came."""

    id: str
    digest: str


def _insert(session: Session, entries: Sequence[InboxRow]) -> list[_Holder]:
    """Insert the first entry of each key, unless the key is taken; who holds each key now."""
    if not entries:
        return []
    firsts: dict[tuple[str, str], InboxRow] = {}
    for entry in entries:
        firsts.setdefault(entry.place, entry)
    # Sorted: two transactions that insert equal keys in another order deadlock on PostgreSQL.
    rows = [firsts[place].values for place in sorted(firsts)]
    connection = session.connection()
    if bulk.insert_unless_taken(connection, INBOX, rows, index=_KEY) == len(rows):
        holders = {place: _Holder(entry.id, entry.digest) for place, entry in firsts.items()}
    else:
        found = connection.execute(_HOLDERS, _PLACES.bound(firsts))
        holders = {(p, k): _Holder(first_id, digest) for p, k, first_id, digest in found}
    return [holders[entry.place] for entry in entries]


def _values(
    vault: Vault, incoming: IncomingEvent, row: str, stored_at: datetime
) -> dict[str, object]:
    digest = vault.digest("body", incoming.body)
    return {
        "id": row,
        "provider": incoming.provider,
        "key": incoming.key or f"body:{digest}",
        "body_digest": digest,
        "body": vault.seal(incoming.body, table=INBOX.name, column="body", row=row),
        "source": incoming.source,
        "type": None,
        "state": IGNORED if incoming.test else PENDING,
        "error": None,
        "notes": "; ".join(incoming.notes) or None,
        "order_id": None,
        "code_id": None,
        "received_at": None,
        "arrived_at": incoming.arrived_at,
        "stored_at": stored_at,
        "handled_at": stored_at if incoming.test else None,
        "attempt": 0,
        "vanished": 0,
        "next_attempt_at": stored_at,
        "lease_until": None,
        "wake_at": None if incoming.test else stored_at + GRACE,
    }


def open_body(vault: Vault, event: InboxEvent | Row[Any]) -> bytes | None:
    """The raw body of a stored event (or of a row with its columns); None after it was purged."""
    if event.body is None:
        return None
    return vault.open(event.body, table=INBOX.name, column="body", row=event.id)
