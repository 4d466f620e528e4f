"""Composes notifications from planned deliveries: the only module that decrypts codes for them.

One statement reads the codes, events and orders of the deliveries, as plain values. What a
destination's ``reveal`` setting does not allow is masked or left out here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from sqlalchemy import String, and_, bindparam, exists, func, or_, select
from sqlmodel import Session

from receiver.errors import CodecatchError
from receiver.events import SmsReceived
from receiver.inbox.store import INBOX, RECONCILED
from receiver.vault.sealing import Vault
from worker.configuration.destination_policy import Reveal
from worker.destinations.base import DeliveryError
from worker.messages import masking
from worker.messages.text import NO_CODE, Notification
from worker.orders import codes
from worker.orders import store as orders
from worker.outbox.leases import Claim
from worker.schema.models import Code, Delivery, Order, OrderNumber, table_of
from worker.schema.states import OPERATORS, UNRECOGNISED

_DELIVERIES = table_of(Delivery)
_CODES = table_of(Code)
_NUMBERS = table_of(OrderNumber)
_ORDERS = table_of(Order)


@dataclass(frozen=True, slots=True)
class DeliveryRow:
    """The columns of a delivery that do not change while it is claimed."""

    id: str
    key: str
    destination: str
    type: str
    event_id: str
    code_id: str | None
    detail: str | None
    recipient: str | None
    unsure: bool
    failures: int
    created_at: datetime
    stale_at: datetime | None
    split_from: str | None
    extra_sends: int


@dataclass(frozen=True, slots=True)
class DeliveryContent:
    """The columns of a delivery's code, event and order; None where there is no such row.

    ``code``, ``text`` and the numbers are sealed. A purged code has a ``code_row`` and no
    ``code``.
    """

    provider: str | None
    order_id: str | None
    source: str | None
    code_row: str | None
    code: bytes | None
    text: bytes | None
    phone_number: bytes | None
    service: str | None
    country: str | None
    verified: bool | None
    extracted: bool | None
    state: str | None
    received_at: datetime | None
    order_row: str | None
    order_phone_number: bytes | None
    order_service: str | None
    order_country: str | None
    expires_at: datetime | None
    came_after_swap: bool | None


_PROVIDER = func.coalesce(_CODES.c.provider, INBOX.c.provider)
_ORDER_ID = func.coalesce(_CODES.c.order_id, INBOX.c.order_id)
_ROW_COLUMNS = tuple(_DELIVERIES.c[name] for name in DeliveryRow.__dataclass_fields__)
_CONTENT = (
    _PROVIDER,
    _ORDER_ID,
    # Only one column of the event: its body may be long.
    INBOX.c.source,
    *(_CODES.c[name] for name in ("id", "code", "text", "phone_number")),
    *(_CODES.c[name] for name in ("service", "country", "verified", "extracted", "state")),
    _CODES.c.received_at,
    *(_ORDERS.c[name] for name in ("id", "phone_number", "service", "country", "expires_at")),
    # As came_after_swap() of the orders' store.
    and_(
        _ORDERS.c.number_swapped,
        _CODES.c.phone_digest != _ORDERS.c.phone_digest,
        or_(_CODES.c.received_at.is_(None), _CODES.c.received_at > _ORDERS.c.number_at),
        exists().where(
            _NUMBERS.c.order_ref == _ORDERS.c.id,
            _NUMBERS.c.phone_digest == _CODES.c.phone_digest,
            _NUMBERS.c.since <= _ORDERS.c.number_at,
        ),
    ),
)
_READ: Final = (
    select(*_ROW_COLUMNS, *_CONTENT)
    .select_from(
        _DELIVERIES.outerjoin(_CODES, _CODES.c.id == _DELIVERIES.c.code_id)
        # A notice to the operators is complete without the event that caused it.
        .outerjoin(
            INBOX, and_(INBOX.c.id == _DELIVERIES.c.event_id, _DELIVERIES.c.type != OPERATORS)
        )
        .outerjoin(_ORDERS, and_(_ORDERS.c.provider == _PROVIDER, _ORDERS.c.order_id == _ORDER_ID))
    )
    .where(_DELIVERIES.c.id.in_(bindparam("ids", expanding=True, type_=String)))
)


def read(session: Session, ids: Sequence[str]) -> dict[str, tuple[DeliveryRow, DeliveryContent]]:
    """Rows and contents of those deliveries ``ids`` that exist, by id."""
    found = session.connection().execute(_READ, {"ids": list(ids)})
    split = len(_ROW_COLUMNS)
    return {each[0]: (DeliveryRow(*each[:split]), DeliveryContent(*each[split:])) for each in found}


_OURSELVES = "codecatch"


def compose(
    vault: Vault,
    rows: Sequence[tuple[DeliveryRow, DeliveryContent, Claim]],
    *,
    reveal: Reveal,
    now: datetime,
) -> list[Notification | DeliveryError]:
    """The notification of each claimed row at ``now``, or the reason why there is none."""
    return [
        _compose(
            vault, row, content, repeated=row.unsure or claimed.vanished > 0, reveal=reveal, now=now
        )
        for row, content, claimed in rows
    ]


def _compose(
    vault: Vault,
    row: DeliveryRow,
    content: DeliveryContent,
    *,
    repeated: bool,
    reveal: Reveal,
    now: datetime,
) -> Notification | DeliveryError:
    is_code = content.code_row is not None and row.type == SmsReceived.type
    if is_code and content.code is None:
        return DeliveryError("its code was purged", permanent=True, message_only=True)
    try:
        secrets = _secrets(vault, content, reveal)
    except CodecatchError as error:
        return DeliveryError(str(error), permanent=True, message_only=True)
    return Notification(
        delivery_id=row.id,
        event_id=row.event_id,
        type=row.type,
        provider=content.provider or _OURSELVES,
        order_id=content.order_id,
        service=content.service or content.order_service,
        country=content.country or content.order_country,
        received_at=content.received_at,
        valid_until=content.expires_at if is_code else None,
        composed_at=now,
        marks=tuple(_marks(row, content, now)) + (("repeated",) if repeated else ()),
        detail=row.detail,
        **secrets,
    )


def _marks(row: DeliveryRow, content: DeliveryContent, now: datetime) -> Iterator[str]:
    if row.stale_at is not None and row.stale_at <= now:
        yield "late"
    if content.source == RECONCILED:
        yield "reconciled"
    if content.verified is False:
        yield "not verified"
    if content.extracted:
        yield "extracted"
    if content.state == UNRECOGNISED:
        yield NO_CODE
    if content.came_after_swap:
        yield "for a number that was swapped away"


def _secrets(vault: Vault, content: DeliveryContent, reveal: Reveal) -> dict[str, str | None]:
    """The code, its text and the number, as far as ``reveal`` allows."""
    if reveal == "none":
        return {}
    if content.code_row is None:
        number = None
        if content.order_row is not None:
            number = orders.open_number(vault, content.order_phone_number, order=content.order_row)
        return redact({"phone_number": number, "code": None, "text": None}, reveal)
    opened = {
        name: codes.open_sealed(vault, content.code_row, name, sealed)
        for name, sealed in (
            ("phone_number", content.phone_number),
            ("code", content.code),
            ("text", content.text),
        )
    }
    return redact({name: text or None for name, text in opened.items()}, reveal)


def redact(secrets: Mapping[str, str | None], reveal: Reveal) -> dict[str, str | None]:
    """Mask or drop the code, text and phone number according to ``reveal``."""
    if reveal == "full":
        return dict(secrets)
    if reveal == "none":
        return {}
    # Only dots would be left of a text, which holds the code.
    parts = (name for name in secrets if masking.MASKS[name] is not masking.hidden)
    return {name: masking.mask(name, secrets[name]) for name in parts if secrets[name]}
