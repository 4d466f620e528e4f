"""Everything that some deliveries are about, in one statement: the code, its event, its order.

Plain values and no models' instances: all of it is read for each message that is sent.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from sqlalchemy import String, and_, bindparam, func, select
from sqlmodel import Session

from receiver.inbox import INBOX
from worker.followups import OPERATORS
from worker.models import Code, Delivery, Order, table_of

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


def of(session: Session, ids: Sequence[str]) -> dict[str, tuple[Row, About]]:
    """The facts of each of the deliveries ``ids`` that has a row."""
    found = session.connection().execute(_FACTS, {"ids": list(ids)})
    split = len(_ROW)
    return {each[0]: (Row(*each[:split]), About(*each[split:])) for each in found}
