"""One-time codes: stored once per order, however often they are reported."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from sqlalchemy import select
from sqlmodel import Session

from receiver.database import bulk
from receiver.database.row_values import OneOf
from receiver.events import SmsReceived
from receiver.ids import endless_ids
from receiver.providers.base import comparable_code
from receiver.providers.phone_numbers import normal_number
from receiver.vault.sealing import Vault
from worker.orders import numbers
from worker.orders.store import OrderRow
from worker.schema.models import Code, table_of
from worker.schema.states import DISCARDED, READY

# How long a code is assumed to be valid if the provider does not say.
DEFAULT_VALIDITY = timedelta(minutes=20)
# A report of the same code with a time this much later is another message.
RESENT_AFTER = timedelta(seconds=10)
# In a digest, separates that of the code from the time of a message that sent it again.
_RESENT: Final = "@"
# A provider's time that differs this much from ours cannot be right.
_MAX_CLOCK_DIFFERENCE = timedelta(days=1)
_CODES = table_of(Code)
_Key = tuple[str, str, str]  # provider, order id, digest: the unique key of a code
_ORDERS_OF: Final = OneOf("orders", _CODES.c.provider, _CODES.c.order_id)


@dataclass(frozen=True, slots=True)
class ReportedCode:
    """A code as the event ``event_id`` reports it; ``state`` and ``verified`` are for a new row.

    ``country`` is that of the order; its numbers may be written without a calling code.
    """

    event: SmsReceived
    event_id: str
    state: str
    verified: bool | None = None
    country: str | None = None


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
    phone_digest: str | None


_READ: Final = tuple(KnownCode.__dataclass_fields__)
_EXISTING: Final = select(_CODES.c.code_digest, *(_CODES.c[name] for name in _READ)).where(
    _ORDERS_OF.condition
)


def insert_or_find(
    session: Session, vault: Vault, reports: Sequence[ReportedCode], *, now: datetime
) -> list[KnownCode]:
    """Insert each reported code unless it is stored; return the row of each report.

    The row is new if and only if its ``event_id`` is the report's. The same code of an order with
    a provider's time at least :data:`RESENT_AFTER` later is a message of its own: services send
    the same code again when they are asked to.
    """
    ids = endless_ids()
    keys = [_key(vault, each) for each in reports]
    first: dict[_Key, ReportedCode] = {}
    for key, each in zip(keys, reports, strict=True):
        first.setdefault(key, each)
    new = {key: _values(vault, each, key, next(ids), now) for key, each in first.items()}
    inserted = _insert(session, new)
    if len(inserted) == len(reports):
        return [inserted[key] for key in keys]
    known = _stored(session, keys)
    resent: dict[_Key, dict[str, Any]] = {}
    for key, each in zip(keys, reports, strict=True):
        if _same_message(known[key], each) is None:
            again = _resent_key(key, each)
            resent[again] = _values(vault, each, again, next(ids), now)
            known[key].append(KnownCode(*(resent[again][name] for name in _READ)))
    if resent:
        _insert(session, resent)
        known = _stored(session, keys)
    return [
        _same_message(known[key], each) or known[key][-1]
        for key, each in zip(keys, reports, strict=True)
    ]


def _insert(session: Session, new: Mapping[_Key, dict[str, Any]]) -> dict[_Key, KnownCode]:
    """Insert the rows whose keys are free; return those."""
    # Sorted: two transactions that insert equal keys in another order deadlock on PostgreSQL.
    ordered = [new[key] for key in sorted(new)]
    inserted = bulk.insert_new(session.connection(), _CODES, ordered) if ordered else set()
    return {
        key: KnownCode(*(row[name] for name in _READ))
        for key, row in new.items()
        if row["id"] in inserted
    }


def _stored(session: Session, keys: Sequence[_Key]) -> dict[_Key, list[KnownCode]]:
    """The stored messages with each of the codes ``keys``, by the provider's time."""
    orders = {(provider, order_id) for provider, order_id, _ in keys}
    found: dict[_Key, list[KnownCode]] = {key: [] for key in keys}
    for digest, *row in session.connection().execute(_EXISTING, _ORDERS_OF.bound(orders)):
        code = KnownCode(*row)
        key = code.provider, code.order_id, digest.partition(_RESENT)[0]
        if key in found:
            found[key].append(code)
    for codes in found.values():
        codes.sort(key=lambda code: (code.received_at or code.stored_at, code.id))
    return found


def _same_message(known: Sequence[KnownCode], reported: ReportedCode) -> KnownCode | None:
    """The stored message that a report repeats; None if it is a later message.

    ``known`` is in the order of the provider's times, and not empty.
    """
    own = next((code for code in known if code.event_id == reported.event_id), None)
    at = reported.event.at if reported.event.at_certain else None
    if own is not None or at is None:
        return own or known[-1]
    for code in reversed(known):
        if code.received_at is None or abs(at - code.received_at) < RESENT_AFTER:
            return code
    newest = known[-1].received_at
    return known[0] if newest is None or at < newest else None


def digest_of(vault: Vault, code: str | None, text: str | None) -> str:
    """The digest by which a code is found again; a message without a code is known by its text."""
    if code is None:
        return vault.digest("text", text or "")
    return vault.digest("code", comparable_code(code))


def _key(vault: Vault, reported: ReportedCode) -> _Key:
    event = reported.event
    return event.provider, event.order_id, digest_of(vault, event.code, event.text)


def _resent_key(key: _Key, reported: ReportedCode) -> _Key:
    provider, order_id, digest = key
    return provider, order_id, f"{digest}{_RESENT}{reported.event.at:%Y%m%dT%H%M%S}"


def _values(
    vault: Vault, reported: ReportedCode, key: _Key, row_id: str, now: datetime
) -> dict[str, Any]:
    event = reported.event

    def sealed(column: str, value: str | None) -> bytes | None:
        if value is None:
            return None
        return vault.seal(value, table=_CODES.name, column=column, row=row_id)

    number = event.phone_number or None
    if number is not None:
        number = normal_number(number, reported.country or event.country)
    provider, order_id, digest = key
    return {
        "id": row_id,
        "provider": provider,
        "order_id": order_id,
        "event_id": reported.event_id,
        # Not null without a code: null means purged.
        "code": sealed("code", event.code or ""),
        "code_digest": digest,
        "text": sealed("text", event.text),
        "phone_number": sealed("phone_number", number),
        "phone_digest": None if number is None else numbers.digest(vault, number),
        "service": event.service,
        "country": event.country,
        "state": reported.state,
        "verified": reported.verified,
        "extracted": event.extracted,
        "received_at": event.at,
        "stored_at": now,
    }


def set_code(
    session: Session, vault: Vault, message: Code, code: str, *, now: datetime
) -> Code | None:
    """Store the code that a person read in an unrecognised message, which is then discarded.

    Returns the new, ready row; None if the order has this code already.
    """
    row_id = next(endless_ids())
    event = SmsReceived(
        provider=message.provider,
        at=message.received_at,
        order_id=message.order_id,
        phone_number=open_field(vault, message, "phone_number"),
        service=message.service,
        country=message.country,
        code=code,
        text=open_field(vault, message, "text"),
    )
    reported = ReportedCode(event, message.event_id, READY)
    key = _key(vault, reported)
    message.state = DISCARDED
    inserted = _insert(session, {key: _values(vault, reported, key, row_id, now)})
    return session.get(Code, row_id) if inserted else None


def complete(vault: Vault, code: Code, whole: str) -> None:
    """Replace a code that lacked its leading zeros by the whole one."""
    code.code = vault.seal(whole, table=_CODES.name, column="code", row=code.id)
    code.code_digest = digest_of(vault, whole, None)


def open_field(vault: Vault, code: Code, column: str) -> str | None:
    """The plain ``code``, ``text`` or ``phone_number`` of a code; None once it was purged."""
    return open_sealed(vault, code.id, column, getattr(code, column))


def open_sealed(vault: Vault, row: str, column: str, sealed: bytes | None) -> str | None:
    """Like :func:`open_field`, for the value read from ``column`` of the code with id ``row``."""
    return vault.open_text(sealed, table=_CODES.name, column=column, row=row)


def stale_at(code: Code | KnownCode, order: OrderRow, *, time_is_certain: bool = True) -> datetime:
    """When delivering a code stops being urgent: the order's end, or the default validity.

    A provider's time without a zone, or over a day from ours, makes nothing late.
    """
    at = code.received_at if time_is_certain else None
    if at is None or abs(at - code.stored_at) > _MAX_CLOCK_DIFFERENCE:
        at = code.stored_at
    return order.expires_at or at + DEFAULT_VALIDITY
