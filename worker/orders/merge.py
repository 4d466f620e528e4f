"""How a report changes an order. Pure: no statements, no transaction.

Merging gives the same order in whatever sequence the events come: the state is a maximum, the
number is that of the latest report, and descriptive fields keep their first value.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from receiver.providers.phone_numbers import normal_number
from receiver.vault.sealing import Vault
from worker.orders import numbers, state_machine
from worker.schema.models import Order, OrderNumber, table_of
from worker.schema.states import CONFIRMED, UNPAID_ENDS

_ORDERS = table_of(Order)
_NUMBERS = table_of(OrderNumber)
Values = dict[str, Any]


@dataclass(slots=True, kw_only=True)
class OrderRow:
    """An order as plain values: an ORM object costs more than everything that is done with it.

    ``number`` is the plain phone number if a report set it; it is not read from the database.
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
    service_alias: str | None = None
    country_alias: str | None = None
    confirmed_at: datetime | None = None
    expires_at: datetime | None = None
    forgotten_at: datetime | None = None
    number: str | None = field(default=None, repr=False)


AnyOrder = Order | OrderRow


def advance(
    order: AnyOrder,
    state: str,
    *,
    row_id: str,
    kind: str,
    event_id: str | None,
    at: datetime,
    now: datetime,
    swapped: bool,
    is_recorded: Callable[[], bool],
) -> Values | None:
    """Move ``order`` to ``state`` if that is further; return the transition row, if there is one.

    Two kinds of reports make a transition row although the state stays: a swap, because it changes
    the number; and a late report that the order was cancelled or expired, because a charge must
    then be checked first. No unique key covers these rows: ``is_recorded`` says whether the row of
    this event exists.
    """
    before = order.status
    order.status = state_machine.furthest(before, state)
    if order.status == CONFIRMED and order.confirmed_at is None:
        order.confirmed_at = at
    if order.status == before:
        passed = state != before and state in UNPAID_ENDS
        if not (passed or swapped) or is_recorded():
            return None
        kind = state if passed else kind
    return {
        "id": row_id,
        "order_ref": order.id,
        "event_id": event_id,
        "kind": kind,
        "from_status": before,
        "to_status": order.status,
        "at": at,
        "recorded_at": now,
    }


def merge_names(order: AnyOrder, service: str | None, country: str | None) -> None:
    """Keep the first name of the order's service and country, and the first other one beside it.

    A provider may have two names for one service: DaisySIM's API says ``wa``, its webhook
    ``WhatsApp``.
    """
    order.service, order.service_alias = _names(order.service, order.service_alias, service)
    order.country, order.country_alias = _names(order.country, order.country_alias, country)


def _names(
    first: str | None, second: str | None, reported: str | None
) -> tuple[str | None, str | None]:
    if not first:
        return reported, second
    if second is None and reported and reported.casefold() != first.casefold():
        return first, reported
    return first, second


def merge_number(
    vault: Vault, order: AnyOrder, number: str, rank: tuple[bool, datetime, str], *, row_id: str
) -> Values | None:
    """Make ``number``, in any spelling, the order's if its ``rank`` is the highest; return its row.

    A country that has no ISO code (DaisySIM's ``16``) gets that of the number as its other name.

    None for an erased order: a provider that reports it again must not bring the number back.
    """
    if order.forgotten_at is not None:
        return None
    number = normal_number(number, order.country)
    digest = numbers.digest(vault, number)
    if order.country_alias is None and not numbers.is_region(order.country):
        order.country_alias = numbers.region_of(number)
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
        "id": row_id,
        "order_ref": order.id,
        "phone_number": vault.seal(number, table=_NUMBERS.name, column="phone_number", row=row_id),
        "phone_digest": digest,
        "since": rank[1],
    }


def _outranks(rank: tuple[bool, datetime, str], order: AnyOrder) -> bool:
    if order.number_at is None or order.number_event_id is None:
        return True
    return rank > (order.number_swapped, order.number_at, order.number_event_id)
