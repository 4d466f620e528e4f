"""One-time codes: stored once for each order, however often they are reported."""

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
from worker.orders.batch import Snapshot
from worker.schema.models import Code, Order, table_of

# How long a code is taken to be of use where the provider does not say.
USUAL_VALIDITY = timedelta(minutes=20)
_CODES = table_of(Code)
_Place = tuple[str, str, str]  # provider, order and digest: what a code is unique by
# Built once, since to build a statement costs more than to run it.
_PLACES: Final = OneOf("places", _CODES.c.provider, _CODES.c.order_id, _CODES.c.code_digest)
_KEPT: Final = ("id", "provider", "order_id", "event_id", "state", "received_at", "stored_at")
_KNOWN: Final = select(_CODES.c.code_digest, *(_CODES.c[name] for name in _KEPT)).where(
    _PLACES.condition
)


@dataclass(frozen=True, slots=True)
class ReportedCode:
    """A code as the event ``event_id`` reports it, and how it is to be kept if it is new."""

    event: SmsReceived
    event_id: str
    state: str
    verified: bool | None = None


@dataclass(frozen=True, slots=True)
class KnownCode:
    """What is known of the code that a report is about, without anything secret."""

    id: str
    provider: str
    order_id: str
    event_id: str
    state: str
    received_at: datetime | None
    stored_at: datetime


def keep(
    session: Session, vault: Vault, reports: Sequence[ReportedCode], *, now: datetime
) -> list[KnownCode]:
    """The code that each of ``reports`` is about: a new row, or the one that it repeats.

    Only a row whose ``event_id`` is the report's own was reported by that event first.
    """
    ids = endless_ids()
    places = [_place(vault, each) for each in reports]
    new: dict[_Place, dict[str, Any]] = {}
    for place, each in zip(places, reports, strict=True):
        if place not in new:
            new[place] = _values(vault, each, place, next(ids), now)
    # Sorted: two transactions that insert equal keys in another order deadlock on PostgreSQL.
    ordered = [new[place] for place in sorted(new)]
    connection = session.connection()
    added = bulk.insert_new(connection, _CODES, ordered) if ordered else set()
    kept = {
        place: KnownCode(*(row[name] for name in _KEPT))
        for place, row in new.items()
        if row["id"] in added
    }
    known = [place for place in new if place not in kept]
    for digest, *row in connection.execute(_KNOWN, _PLACES.bound(known)) if known else ():
        code = KnownCode(*row)
        kept[code.provider, code.order_id, digest] = code
    return [kept[place] for place in places]


def _place(vault: Vault, reported: ReportedCode) -> _Place:
    event = reported.event
    return event.provider, event.order_id, vault.digest("code", event.code)


def _values(
    vault: Vault, reported: ReportedCode, place: _Place, row: str, now: datetime
) -> dict[str, Any]:
    event = reported.event

    def sealed(column: str, value: str | None) -> bytes | None:
        if value is None:
            return None
        return vault.seal(value, table=_CODES.name, column=column, row=row)

    provider, order_id, digest = place
    return {
        "id": row,
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
    """The same of what was read from ``column`` of the code with the id ``row``."""
    return vault.open_text(sealed, table=_CODES.name, column=column, row=row)


def stale_at(code: Code | KnownCode, order: Order | Snapshot) -> datetime:
    """When a code is no longer worth hurrying for: its order's end, or what is usual."""
    return order.expires_at or (code.received_at or code.stored_at) + USUAL_VALIDITY
