"""One-time codes: stored once per order, however often they are reported."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from sqlalchemy import select
from sqlmodel import Session

from receiver.database import bulk
from receiver.database.row_values import OneOf
from receiver.events import SmsReceived
from receiver.ids import endless_ids
from receiver.vault.sealing import Vault
from worker.orders.store import OrderRow
from worker.schema.models import Code, table_of

# How long a code is assumed to be valid if the provider does not say.
DEFAULT_VALIDITY = timedelta(minutes=20)
_CODES = table_of(Code)
_Key = tuple[str, str, str]  # provider, order id, digest: the unique key of a code
_KEYS: Final = OneOf("keys", _CODES.c.provider, _CODES.c.order_id, _CODES.c.code_digest)
_READ: Final = ("id", "provider", "order_id", "event_id", "state", "received_at", "stored_at")
_EXISTING: Final = select(_CODES.c.code_digest, *(_CODES.c[name] for name in _READ)).where(
    _KEYS.condition
)


@dataclass(frozen=True, slots=True)
class ReportedCode:
    """A code as the event ``event_id`` reports it; ``state`` and ``verified`` are for a new row."""

    event: SmsReceived
    event_id: str
    state: str
    verified: bool | None = None


@dataclass(frozen=True, slots=True)
class KnownCode:
    """The stored row of a reported code, without its secrets."""

    id: str
    provider: str
    order_id: str
    event_id: str
    state: str
    received_at: datetime | None
    stored_at: datetime


def insert_or_find(
    session: Session, vault: Vault, reports: Sequence[ReportedCode], *, now: datetime
) -> list[KnownCode]:
    """Insert each reported code unless it is stored; return the row of each report.

    The row is new if and only if its ``event_id`` is the report's.
    """
    ids = endless_ids()
    keys = [_key(vault, each) for each in reports]
    new: dict[_Key, dict[str, Any]] = {}
    for key, each in zip(keys, reports, strict=True):
        if key not in new:
            new[key] = _values(vault, each, key, next(ids), now)
    # Sorted: two transactions that insert equal keys in another order deadlock on PostgreSQL.
    ordered = [new[key] for key in sorted(new)]
    connection = session.connection()
    inserted = bulk.insert_new(connection, _CODES, ordered) if ordered else set()
    found = {
        key: KnownCode(*(row[name] for name in _READ))
        for key, row in new.items()
        if row["id"] in inserted
    }
    existing = [key for key in new if key not in found]
    for digest, *row in connection.execute(_EXISTING, _KEYS.bound(existing)) if existing else ():
        code = KnownCode(*row)
        found[code.provider, code.order_id, digest] = code
    return [found[key] for key in keys]


def _key(vault: Vault, reported: ReportedCode) -> _Key:
    event = reported.event
    return event.provider, event.order_id, vault.digest("code", event.code)


def _values(
    vault: Vault, reported: ReportedCode, key: _Key, row_id: str, now: datetime
) -> dict[str, Any]:
    event = reported.event

    def sealed(column: str, value: str | None) -> bytes | None:
        if value is None:
            return None
        return vault.seal(value, table=_CODES.name, column=column, row=row_id)

    provider, order_id, digest = key
    return {
        "id": row_id,
        "provider": provider,
        "order_id": order_id,
        "event_id": reported.event_id,
        "code": sealed("code", event.code),
        "code_digest": digest,
        "text": sealed("text", event.text),
        "phone_number": sealed("phone_number", event.phone_number),
        "phone_digest": event.phone_number and vault.digest("phone", event.phone_number),
        "service": event.service,
        "country": event.country,
        "state": reported.state,
        "verified": reported.verified,
        "received_at": event.at,
        "stored_at": now,
    }


def open_field(vault: Vault, code: Code, column: str) -> str | None:
    """The plain ``code``, ``text`` or ``phone_number`` of a code; None once it was purged."""
    return open_sealed(vault, code.id, column, getattr(code, column))


def open_sealed(vault: Vault, row: str, column: str, sealed: bytes | None) -> str | None:
    """Like :func:`open_field`, for the value read from ``column`` of the code with id ``row``."""
    return vault.open_text(sealed, table=_CODES.name, column=column, row=row)


def stale_at(code: Code | KnownCode, order: OrderRow) -> datetime:
    """When delivering a code stops being urgent: the order's end, or the default validity."""
    return order.expires_at or (code.received_at or code.stored_at) + DEFAULT_VALIDITY
