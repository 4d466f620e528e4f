"""The inbox: stores each authentic webhook once, with its body sealed.

A unique key on provider and event key detects duplicates; no select precedes the insert. The row
holds the raw body, so an event that the reader cannot parse yet can be read again later.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
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
# Sources of an event: a webhook from the provider, or our own query to the provider.
WEBHOOK = "webhook"
RECONCILED = "reconciled"
_UNIQUE_KEY = ("provider", "key")
# A provider repeats a webhook for up to 15 hours. Equal bodies of an event that may recur are the
# same event for this long after the first one arrived.
REPEATED_WITHIN = timedelta(hours=16)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_OPEN_STATES = text("state <> 'handled'")
# Retention selects rows that still have a body, and separately those that report a code.
_WITH_BODY = text("body IS NOT NULL")
_WITH_CODE = text("body IS NOT NULL AND code_id IS NOT NULL")


class InboxEvent(FollowUp, table=True):
    """A webhook as received, and the result of handling it.

    ``received_at`` is the provider's time; ``arrived_at`` is when the request was complete,
    ``stored_at`` when it was written (the commit follows), ``handled_at`` when its effects were
    written. ``source`` is ``webhook`` or ``reconciled``. ``code_id`` is the code that the event
    reports, whether or not an earlier event reported it already.
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
_KEYS = OneOf("keys", INBOX.c.provider, INBOX.c.key)
_BY_KEYS = select(INBOX.c.provider, INBOX.c.key, INBOX.c.id, INBOX.c.body_digest).where(
    _KEYS.condition
)
_ARRIVALS = select(INBOX.c.provider, INBOX.c.key, INBOX.c.arrived_at).where(_KEYS.condition)
_LOCK_DIGEST = text("SELECT pg_advisory_xact_lock(hashtextextended(:digest, 0))")


@dataclass(slots=True, kw_only=True)
class IncomingEvent:
    """An authentic webhook that is not stored yet.

    ``key`` is the sender's own id of the event; without one, the digest of the body is the key,
    followed by a window of time if the event ``may_recur``.
    ``test`` marks a provider's test event, which is stored and has no effects. ``may_recur`` marks
    one without an id, whose body a later event may have too (``Provider.may_recur``).
    """

    provider: str
    body: bytes = field(repr=False)
    arrived_at: datetime
    key: str | None = None
    test: bool = False
    may_recur: bool = False
    notes: tuple[str, ...] = ()
    source: str = WEBHOOK


@dataclass(slots=True)
class StoreResult:
    """The id of the event's row; for a duplicate, the id of the first event's row."""

    id: str
    duplicate: bool


@dataclass(slots=True)
class InboxRow:
    """The column values of one event, with its id, and with its body sealed.

    ``may_recur``: its key ends in the window of :data:`REPEATED_WITHIN` in which it arrived.
    """

    values: Mapping[str, Any] = field(repr=False)
    may_recur: bool = False

    @classmethod
    def read(cls, values: Mapping[str, Any]) -> InboxRow:
        """Return the row with the column values of a stored one."""
        # The digest is keyed, so no id that a sender chooses has this form.
        return cls(values, values["key"].startswith(f"{_body_key(values['body_digest'])}@"))

    @property
    def id(self) -> str:
        """The row's id, unless the event turns out to be a duplicate."""
        return str(self.values["id"])

    @property
    def unique_key(self) -> tuple[str, str]:
        """Provider and event key, which are unique in the inbox."""
        return self.values["provider"], self.values["key"]

    @property
    def provider(self) -> str:
        """The provider's name."""
        return str(self.values["provider"])

    @property
    def digest(self) -> str:
        """The keyed digest of the body."""
        return str(self.values["body_digest"])

    @property
    def arrived_at(self) -> datetime:
        """When the request was complete."""
        arrived_at: datetime = self.values["arrived_at"]
        return arrived_at

    def repeating(self, key: str) -> InboxRow:
        """This event under the key of the event that it repeats."""
        return InboxRow({**self.values, "key": key}, self.may_recur)

    def quarantined(self, first_id: str) -> InboxRow:
        """This event as a quarantined row: its key is taken by an event with another body."""
        changed = {
            "key": f"{self.values['key']}#{self.digest}",
            "state": QUARANTINED,
            "error": f"the same event id as {first_id}, with another body",
            "handled_at": None,
            # The sweep picks the row up, and notifies the operators.
            "wake_at": self.values["stored_at"] + GRACE,
        }
        return InboxRow({**self.values, **changed})


def prepare(vault: Vault, incoming_events: Sequence[IncomingEvent]) -> list[InboxRow]:
    """Seal ``incoming_events`` and give them ids; one row each, in the same order."""
    now, ids = clock.now(), new_ids(len(incoming_events))
    return [
        InboxRow(_values(vault, incoming, row_id, now), incoming.may_recur)
        for incoming, row_id in zip(incoming_events, ids, strict=True)
    ]


def store_many(
    session: Session, vault: Vault, incoming_events: Sequence[IncomingEvent]
) -> list[StoreResult]:
    """Prepare and store ``incoming_events``; see :func:`store`."""
    return store(session, prepare(vault, incoming_events))


def store(session: Session, rows: Sequence[InboxRow]) -> list[StoreResult]:
    """Insert the rows whose keys are new, in one statement; one result each, in the same order.

    A row whose key is taken by another body is stored as well, quarantined under the key
    ``key#digest``: one of the two bodies is not what the provider sent. Idempotent: storing the
    same rows again changes nothing.
    """
    rows = _repetitions_found(session, rows)
    firsts = _insert(session, rows)
    conflicts = [
        (index, row.quarantined(first.id))
        for index, (row, first) in enumerate(zip(rows, firsts, strict=True))
        if first.digest != row.digest
    ]
    results = [
        StoreResult(first.id, first.id != row.id) for first, row in zip(firsts, rows, strict=True)
    ]
    quarantined = _insert(session, [row for _, row in conflicts])
    for (index, row), first in zip(conflicts, quarantined, strict=True):
        results[index] = StoreResult(first.id, first.id != row.id)
    return results


def insert_new(connection: Connection, rows: Sequence[InboxRow]) -> bool:
    """Insert ``rows``, which are probably all new; return whether they were.

    Up to :data:`receiver.database.bulk.MAX_ROWS` rows take a single statement. If it returns
    False, the new rows are written, or none of them, and :func:`store` must finish the others.
    """
    if any(row.may_recur for row in rows):
        return False
    values = [row.values for row in sorted(rows, key=attrgetter("unique_key"))]
    return bulk.insert_unless_taken(connection, INBOX, values, index=_UNIQUE_KEY) == len(values)


def _repetitions_found(session: Session, rows: Sequence[InboxRow]) -> Sequence[InboxRow]:
    """Give each row that repeats an event of another window the key of that event.

    Within one window, equal bodies have equal keys. Whatever is less than 16 hours away is in this
    window or in one beside it: the one before, or, for an event from the spool, the one after.
    """
    recurring = [row for row in rows if row.may_recur]
    if not recurring:
        return rows
    _lock(session, {row.digest for row in recurring})
    sought = {(row.provider, key) for row in recurring for key in _possible_keys(row)}
    arrivals: dict[tuple[str, str], datetime] = {
        (provider, key): arrived_at
        for provider, key, arrived_at in session.connection().execute(
            _ARRIVALS, _KEYS.bound(sought)
        )
    }
    changed: dict[str, InboxRow] = {}
    for row in sorted(recurring, key=attrgetter("arrived_at")):
        for key in _possible_keys(row):
            first = arrivals.get((row.provider, key))
            if first is not None and abs(row.arrived_at - first) <= REPEATED_WITHIN:
                changed[row.id] = row.repeating(key)
                break
        else:
            arrivals[row.unique_key] = row.arrived_at
    return [changed.get(row.id, row) for row in rows]


def _lock(session: Session, digests: Set[str]) -> None:
    """Let no other transaction store one of these bodies meanwhile, under whatever key.

    SQLite has one writer anyway. On PostgreSQL every transaction takes these locks before it locks
    a row, and in the same order.
    """
    if session.get_bind().dialect.name == "postgresql":
        for digest in sorted(digests):
            session.connection().execute(_LOCK_DIGEST, {"digest": digest})


def _possible_keys(row: InboxRow) -> tuple[str, ...]:
    """The keys that an equal body may have, the earliest window's first."""
    window, body = _window(row.arrived_at), _body_key(row.digest)
    # Without a window: an earlier version stored it.
    return (body, *(f"{body}@{each}" for each in range(window - 1, window + 2)))


def _body_key(digest: str) -> str:
    return f"body:{digest}"


def _window(arrived_at: datetime) -> int:
    return (arrived_at - _EPOCH) // REPEATED_WITHIN


@dataclass(frozen=True, slots=True)
class _FirstRow:
    """The stored row of a key: the first event that had it."""

    id: str
    digest: str


def _insert(session: Session, rows: Sequence[InboxRow]) -> list[_FirstRow]:
    """Insert the first row of each key that is not taken; for each row, the stored row of its key.

    Rows are sorted by key: two transactions that insert equal keys in different orders deadlock
    on PostgreSQL.
    """
    if not rows:
        return []
    by_key: dict[tuple[str, str], InboxRow] = {}
    for row in rows:
        by_key.setdefault(row.unique_key, row)
    values = [by_key[key].values for key in sorted(by_key)]
    connection = session.connection()
    if bulk.insert_unless_taken(connection, INBOX, values, index=_UNIQUE_KEY) == len(values):
        firsts = {key: _FirstRow(row.id, row.digest) for key, row in by_key.items()}
    else:
        found = connection.execute(_BY_KEYS, _KEYS.bound(by_key))
        firsts = {
            (provider, key): _FirstRow(first_id, digest)
            for provider, key, first_id, digest in found
        }
    return [firsts[row.unique_key] for row in rows]


def _values(
    vault: Vault, incoming: IncomingEvent, row_id: str, stored_at: datetime
) -> dict[str, object]:
    digest = vault.digest("body", incoming.body)
    key = incoming.key or _body_key(digest)
    if incoming.may_recur:
        key = f"{key}@{_window(incoming.arrived_at)}"
    return {
        "id": row_id,
        "provider": incoming.provider,
        "key": key,
        "body_digest": digest,
        "body": vault.seal(incoming.body, table=INBOX.name, column="body", row=row_id),
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
    """The raw body of a stored event (or of a row with its columns); None once it is purged."""
    if event.body is None:
        return None
    return vault.open(event.body, table=INBOX.name, column="body", row=event.id)
