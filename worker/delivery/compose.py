"""From planned deliveries to what they say: the only place that opens codes for delivery.

One statement reads everything that the deliveries are about: their codes, events and orders, as
plain values. A destination gets no more than its owner lets it hold: the rest is masked or left
out here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from sqlalchemy import String, and_, bindparam, func, select
from sqlmodel import Session

from receiver.errors import CodecatchError
from receiver.events import SmsReceived
from receiver.inbox.store import INBOX, RECONCILED
from receiver.vault.sealing import Vault
from worker.configuration.destination_policy import Reveal
from worker.destinations.base import DeliveryError
from worker.messages import masking
from worker.messages.text import Notification
from worker.orders import codes
from worker.orders import store as orders
from worker.outbox.leases import Claim
from worker.schema.models import Code, Delivery, Order, table_of
from worker.schema.states import OPERATORS

_DELIVERIES = table_of(Delivery)
_CODES = table_of(Code)
_ORDERS = table_of(Order)


@dataclass(frozen=True, slots=True)
class Row:
    """What a delivery's row says that does not change while it is in hand."""

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


@dataclass(frozen=True, slots=True)
class About:
    """What is known of a delivery's code, event and order; None for what there is not.

    ``code``, ``text`` and the numbers are sealed. A code that has its row, and nothing in it any
    more, has a ``code_row`` and no ``code``.
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
    received_at: datetime | None
    order_row: str | None
    order_phone_number: bytes | None
    order_service: str | None
    order_country: str | None
    expires_at: datetime | None


_PROVIDER = func.coalesce(_CODES.c.provider, INBOX.c.provider)
_ORDER_ID = func.coalesce(_CODES.c.order_id, INBOX.c.order_id)
_ROW = tuple(_DELIVERIES.c[name] for name in Row.__dataclass_fields__)
_ABOUT = (
    _PROVIDER,
    _ORDER_ID,
    # Not the whole of an event: its body may be long.
    INBOX.c.source,
    *(_CODES.c[name] for name in ("id", "code", "text", "phone_number", "service", "country")),
    *(_CODES.c[name] for name in ("verified", "received_at")),
    *(_ORDERS.c[name] for name in ("id", "phone_number", "service", "country", "expires_at")),
)
# Built once, since to build a statement costs more than to run it.
_FACTS: Final = (
    select(*_ROW, *_ABOUT)
    .select_from(
        _DELIVERIES.outerjoin(_CODES, _CODES.c.id == _DELIVERIES.c.code_id)
        # A notice to the operators speaks for itself, whatever event it is about.
        .outerjoin(
            INBOX, and_(INBOX.c.id == _DELIVERIES.c.event_id, _DELIVERIES.c.type != OPERATORS)
        )
        .outerjoin(_ORDERS, and_(_ORDERS.c.provider == _PROVIDER, _ORDERS.c.order_id == _ORDER_ID))
    )
    .where(_DELIVERIES.c.id.in_(bindparam("ids", expanding=True, type_=String)))
)


def read(session: Session, ids: Sequence[str]) -> dict[str, tuple[Row, About]]:
    """The facts of each of the deliveries ``ids`` that has a row."""
    found = session.connection().execute(_FACTS, {"ids": list(ids)})
    split = len(_ROW)
    return {each[0]: (Row(*each[:split]), About(*each[split:])) for each in found}


_OURSELVES = "codecatch"
# A text holds the code, and has no form that does not.
_MASKED = {"phone_number": masking.phone, "code": masking.code}


def compose(
    vault: Vault,
    held: Sequence[tuple[Row, About, Claim]],
    *,
    reveal: Reveal,
    now: datetime,
) -> list[Notification | DeliveryError]:
    """What each of the rows in hand says, at ``now``; or why that cannot be told."""
    return [
        _compose(
            vault, row, about, repeated=row.unsure or claimed.vanished > 0, reveal=reveal, now=now
        )
        for row, about, claimed in held
    ]


def _compose(
    vault: Vault, row: Row, about: About, *, repeated: bool, reveal: Reveal, now: datetime
) -> Notification | DeliveryError:
    of_code = about.code_row is not None and row.type == SmsReceived.type
    if of_code and about.code is None:
        return DeliveryError("its code was purged", permanent=True, of_message=True)
    try:
        secrets = _secrets(vault, about, reveal)
    except CodecatchError as error:
        return DeliveryError(str(error), permanent=True, of_message=True)
    return Notification(
        delivery_id=row.id,
        event_id=row.event_id,
        type=row.type,
        provider=about.provider or _OURSELVES,
        order_id=about.order_id,
        service=about.service or about.order_service,
        country=about.country or about.order_country,
        received_at=about.received_at,
        valid_until=about.expires_at if of_code else None,
        told_at=now,
        marks=tuple(_marks(row, about, now)) + (("repeated",) if repeated else ()),
        detail=row.detail,
        **secrets,
    )


def _marks(row: Row, about: About, now: datetime) -> Iterator[str]:
    if row.stale_at is not None and row.stale_at <= now:
        yield "late"
    if about.source == RECONCILED:
        yield "reconciled"
    if about.verified is False:
        yield "not verified"


def _secrets(vault: Vault, about: About, reveal: Reveal) -> dict[str, str | None]:
    """The code, its text and the number, as far as they may be shown."""
    if reveal == "none":
        return {}
    if about.code_row is None:
        number = None
        if about.order_row is not None:
            number = orders.open_number(vault, about.order_phone_number, order=about.order_row)
        return shown({"phone_number": number, "code": None, "text": None}, reveal)
    opened = {
        name: codes.open_sealed(vault, about.code_row, name, sealed)
        for name, sealed in (
            ("phone_number", about.phone_number),
            ("code", about.code),
            ("text", about.text),
        )
    }
    return shown(opened, reveal)


def shown(secrets: Mapping[str, str | None], reveal: Reveal) -> dict[str, str | None]:
    """What a destination may hold of a code, its text and its number, by their names."""
    if reveal == "full":
        return dict(secrets)
    forms = _MASKED if reveal == "masked" else {}
    return {name: forms[name](text) for name, text in secrets.items() if text and name in forms}
