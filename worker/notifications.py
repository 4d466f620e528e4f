"""From planned deliveries to what they say: the one place that opens codes for telling.

A destination is given no more than its owner wants it to hold: what it may not reveal is masked
or left out here, before any of it leaves the database's side.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from sqlalchemy import String, bindparam, sql
from sqlmodel import Session, col, select

from receiver.errors import CodecatchError
from receiver.events import SmsReceived
from receiver.inbox import INBOX, RECONCILED
from receiver.row_values import OneOf
from receiver.vault import Vault
from worker import codes, masks, orders
from worker.destination_policy import Reveal
from worker.destinations.base import DeliveryError
from worker.followups import OPERATORS
from worker.leases import Claim
from worker.messages import Notification
from worker.models import Code, Delivery, Order, table_of

_OURSELVES = "codecatch"
# A text holds the code, and has no form that does not.
_MASKED = {"phone_number": masks.phone, "code": masks.code}
# Built once, since to build a statement costs more than to run it.
_IDS: Final = bindparam("ids", expanding=True, type_=String)
_CODES: Final = select(Code).where(col(Code.id).in_(_IDS))
# Not the whole of an event: its body may be long.
_ORIGINS: Final = sql.select(INBOX.c.id, INBOX.c.provider, INBOX.c.order_id, INBOX.c.source).where(
    INBOX.c.id.in_(_IDS)
)
_ABOUT: Final = OneOf("about", table_of(Order).c.provider, table_of(Order).c.order_id)
_ORDERS: Final = select(Order).where(_ABOUT.condition)


@dataclass(frozen=True, slots=True)
class _Origin:
    """Where an event came from, and what it is about."""

    provider: str
    order_id: str | None
    source: str


@dataclass(frozen=True, slots=True)
class _Known:
    """Everything that some deliveries are about, fetched together."""

    codes: dict[str, Code]
    origins: dict[str, _Origin]
    orders: dict[tuple[str, str], Order]


def compose(
    session: Session,
    vault: Vault,
    held: Sequence[tuple[Delivery, Claim]],
    *,
    reveal: Reveal,
    now: datetime,
) -> list[Notification | DeliveryError]:
    """What each of the rows in hand says, at ``now``; or why that cannot be told."""
    known = _look_up(session, [row for row, _ in held])
    return [
        _compose(
            vault, known, row, repeated=row.unsure or claimed.vanished > 0, reveal=reveal, now=now
        )
        for row, claimed in held
    ]


def _compose(
    vault: Vault, known: _Known, row: Delivery, *, repeated: bool, reveal: Reveal, now: datetime
) -> Notification | DeliveryError:
    code = known.codes.get(row.code_id or "")
    origin = known.origins.get(row.event_id) if row.type != OPERATORS else None
    provider, order_id = _about(code, origin)
    order = known.orders.get((provider, order_id or ""))
    of_code = code is not None and row.type == SmsReceived.type
    if of_code and code is not None and code.code is None:
        return DeliveryError("its code was purged", permanent=True, of_message=True)
    try:
        secrets = _secrets(vault, code, order, reveal)
    except CodecatchError as error:
        return DeliveryError(str(error), permanent=True, of_message=True)
    return Notification(
        delivery_id=row.id,
        event_id=row.event_id,
        type=row.type,
        provider=provider,
        order_id=order_id,
        service=_described(code, order, "service"),
        country=_described(code, order, "country"),
        received_at=code.received_at if code is not None else None,
        valid_until=order.expires_at if of_code and order is not None else None,
        told_at=now,
        marks=tuple(_marks(row, code, origin, now)) + (("repeated",) if repeated else ()),
        detail=row.detail,
        **secrets,
    )


def _marks(
    row: Delivery, code: Code | None, origin: _Origin | None, now: datetime
) -> Iterator[str]:
    if row.stale_at is not None and row.stale_at <= now:
        yield "late"
    if origin is not None and origin.source == RECONCILED:
        yield "reconciled"
    if code is not None and code.verified is False:
        yield "not verified"


def _about(code: Code | None, origin: _Origin | None) -> tuple[str, str | None]:
    if code is not None:
        return code.provider, code.order_id
    if origin is not None:
        return origin.provider, origin.order_id
    return _OURSELVES, None


def _described(code: Code | None, order: Order | None, name: str) -> str | None:
    """What is known of a code, else of its order."""
    of_code: str | None = getattr(code, name, None)
    of_order: str | None = getattr(order, name, None)
    return of_code or of_order


def _secrets(
    vault: Vault, code: Code | None, order: Order | None, reveal: Reveal
) -> dict[str, str | None]:
    """The code, its text and the number, as far as they may be shown."""
    if reveal == "none":
        return {}
    if code is not None:
        phone_number = codes.open_field(vault, code, "phone_number")
    else:
        phone_number = orders.phone_number(vault, order) if order is not None else None
    opened = {
        "phone_number": phone_number,
        "code": codes.open_field(vault, code, "code") if code is not None else None,
        "text": codes.open_field(vault, code, "text") if code is not None else None,
    }
    return shown(opened, reveal)


def shown(secrets: Mapping[str, str | None], reveal: Reveal) -> dict[str, str | None]:
    """What a destination may hold of a code, its text and its number, by their names."""
    if reveal == "full":
        return dict(secrets)
    forms = _MASKED if reveal == "masked" else {}
    return {name: forms[name](text) for name, text in secrets.items() if text and name in forms}


def _look_up(session: Session, rows: Sequence[Delivery]) -> _Known:
    code_ids = {row.code_id for row in rows if row.code_id}
    event_ids = {row.event_id for row in rows if row.type != OPERATORS}
    found = session.exec(_CODES, params={"ids": list(code_ids)}).all() if code_ids else ()
    origins = {
        id_: _Origin(provider, order_id, source)
        for id_, provider, order_id, source in (
            session.connection().execute(_ORIGINS, {"ids": list(event_ids)}) if event_ids else ()
        )
    }
    about = {(code.provider, code.order_id) for code in found}
    about |= {(o.provider, o.order_id) for o in origins.values() if o.order_id is not None}
    chosen = session.exec(_ORDERS, params=_ABOUT.bound(about)).all() if about else ()
    return _Known(
        codes={code.id: code for code in found},
        origins=origins,
        orders={(order.provider, order.order_id): order for order in chosen},
    )
