"""How what is said of an order changes what is known of it: no statement, no transaction.

Merging gives the same order whatever the sequence of events: the state is a maximum, the number
that of the latest report, and everything descriptive is kept once it is known.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from receiver.vault.sealing import Vault
from worker.orders import state_machine
from worker.schema.models import Order, OrderNumber, table_of
from worker.schema.states import CONFIRMED, UNPAID_ENDS

_ORDERS = table_of(Order)
_NUMBERS = table_of(OrderNumber)
Values = dict[str, Any]


@dataclass(slots=True, kw_only=True)
class OrderRow:
    """An order as plain values: an object of the ORM costs more than all that is done with it.

    ``number`` is its plain number, where that was said and not read.
    """

    id: str
    provider: str
    order_id: str
    status: str
    created_at: datetime
    updated_at: datetime
    phone_number: bytes | None = None
    phone_digest: str | None = None
    number_swapped: bool = False
    number_at: datetime | None = None
    number_event_id: str | None = None
    service: str | None = None
    country: str | None = None
    confirmed_at: datetime | None = None
    expires_at: datetime | None = None
    forgotten_at: datetime | None = None
    number: str | None = field(default=None, repr=False)


AnyOrder = Order | OrderRow


def advance(
    order: AnyOrder,
    said: str,
    *,
    row: str,
    kind: str,
    event_id: str | None,
    at: datetime,
    now: datetime,
    swapped: bool,
    recorded: Callable[[], bool],
) -> Values | None:
    """Move ``order`` to the state ``said`` if that is further; the step to be kept as ``row``.

    Two things are steps even where the state stays: a swap, for the number is what it changed,
    and an unpaid end that the order had gone past already, under its own name as the kind. These
    have no row of their own that would tell that they are there: ``recorded`` says so.
    """
    before = order.status
    order.status = state_machine.furthest(before, said)
    if order.status == CONFIRMED and order.confirmed_at is None:
        order.confirmed_at = at
    if order.status == before:
        outrun = said != before and said in UNPAID_ENDS
        if not (outrun or swapped) or recorded():
            return None
        kind = said if outrun else kind
    return {
        "id": row,
        "order_ref": order.id,
        "event_id": event_id,
        "kind": kind,
        "from_status": before,
        "to_status": order.status,
        "at": at,
        "recorded_at": now,
    }


def take_number(
    vault: Vault, order: AnyOrder, number: str, rank: tuple[bool, datetime, str], *, row: str
) -> Values | None:
    """Make ``number`` the order's if its ``rank`` is the highest so far; it, to be kept as ``row``.

    Not for an order that somebody asked to be forgotten: a provider that tells of it again must
    not bring the number back.
    """
    if order.forgotten_at is not None:
        return None
    digest = vault.digest("phone", number)
    if _outranks(rank, order):
        order.number_swapped, order.number_at, order.number_event_id = rank
        if order.phone_digest != digest:
            order.phone_digest = digest
            order.phone_number = vault.seal(
                number, table=_ORDERS.name, column="phone_number", row=order.id
            )
            if isinstance(order, OrderRow):
                order.number = number
    return {
        "id": row,
        "order_ref": order.id,
        "phone_number": vault.seal(number, table=_NUMBERS.name, column="phone_number", row=row),
        "phone_digest": digest,
        "since": rank[1],
    }


def _outranks(rank: tuple[bool, datetime, str], order: AnyOrder) -> bool:
    if order.number_at is None or order.number_event_id is None:
        return True
    return rank > (order.number_swapped, order.number_at, order.number_event_id)
