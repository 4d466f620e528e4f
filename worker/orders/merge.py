"""How reports of webhooks, our own calls and polling change an order.

Merging gives the same order in whatever sequence the reports come: the state is a maximum, the
number is that of the latest report, and descriptive fields keep their first value.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlmodel import Session

from receiver.database import bulk
from receiver.ids import endless_ids
from receiver.providers.phone_numbers import normal_number
from receiver.vault.sealing import Vault
from worker.orders import numbers, state_machine, store
from worker.orders.store import OrderRow
from worker.schema.models import Order, OrderNumber, OrderTransition, table_of
from worker.schema.states import CONFIRMED, UNPAID_ENDS

_ORDERS = table_of(Order)
_NUMBERS = table_of(OrderNumber)
_TRANSITIONS = table_of(OrderTransition)


@dataclass(slots=True)
class Merge:
    """Merges reports into a locked order; :meth:`write` stores the order and the rows they add."""

    session: Session
    order: OrderRow
    now: datetime
    ids: Iterator[str] = field(default_factory=endless_ids)
    transitions: list[dict[str, Any]] = field(default_factory=list)
    numbers: list[dict[str, Any]] = field(default_factory=list)

    def advance(
        self, state: str, *, kind: str, event_id: str | None, at: datetime, swapped: bool = False
    ) -> None:
        """Move the order to ``state`` if that is further, and record the transition.

        Two kinds of reports make a transition although the state stays: a swap, because it changes
        the number; and a late report that the order was cancelled or expired, because a charge must
        then be checked first. No unique key covers these, so an event's transition is looked up.
        """
        order, before = self.order, self.order.status
        order.status = state_machine.furthest(before, state)
        if order.status == CONFIRMED and order.confirmed_at is None:
            order.confirmed_at = at
        if order.status == before:
            passed = state != before and state in UNPAID_ENDS
            if not (passed or swapped) or store.is_recorded(self.session, order, event_id):
                return
            kind = state if passed else kind
        self.transitions.append(
            {
                "id": next(self.ids),
                "order_ref": order.id,
                "event_id": event_id,
                "kind": kind,
                "from_status": before,
                "to_status": order.status,
                "at": at,
                "recorded_at": self.now,
            }
        )

    def merge_names(self, service: str | None, country: str | None) -> None:
        """Keep the first name of the service and of the country, and the first other one of each.

        A provider may have two names for one service: DaisySIM's API says ``wa``, its webhook
        ``WhatsApp``. Merge the country before a number: it decides how the number is read.
        """
        order = self.order
        order.service, order.service_alias = _names(order.service, order.service_alias, service)
        order.country, order.country_alias = _names(order.country, order.country_alias, country)

    def merge_number(self, vault: Vault, number: str, rank: tuple[bool, datetime, str]) -> None:
        """Record ``number``, in any spelling; it is the order's if its ``rank`` is the highest.

        A country that has no ISO code (DaisySIM's ``16``) gets that of the number as its other
        name. An erased order stays without: a provider that reports it again must not bring it
        back.
        """
        order, row_id = self.order, next(self.ids)
        if order.forgotten_at is not None:
            return
        number = normal_number(number, order.country)
        digest = numbers.digest(vault, number)
        if order.country_alias is None and not numbers.is_region(order.country):
            order.country_alias = numbers.region_of(number)
        if _outranks(rank, order):
            order.number_swapped, order.number_at, order.number_event_id = rank
            if order.phone_digest != digest:
                order.phone_digest, order.number = digest, number
                order.phone_number = vault.seal(
                    number, table=_ORDERS.name, column="phone_number", row=order.id
                )
        sealed = vault.seal(number, table=_NUMBERS.name, column="phone_number", row=row_id)
        self.numbers.append(
            {
                "id": row_id,
                "order_ref": order.id,
                "phone_number": sealed,
                "phone_digest": digest,
                "since": rank[1],
            }
        )

    def write(self) -> None:
        """Store the order and its new rows."""
        store.update(self.session, [self.order])
        insert_details(self.session, [self])


def insert_details(session: Session, merges: Sequence[Merge]) -> None:
    """Insert the transitions and numbers. Their orders are locked, so any order of rows is safe."""
    for table, rows in (
        (_TRANSITIONS, [row for each in merges for row in each.transitions]),
        (_NUMBERS, [row for each in merges for row in each.numbers]),
    ):
        if rows:
            bulk.insert_new(session.connection(), table, rows)


def _names(
    first: str | None, second: str | None, reported: str | None
) -> tuple[str | None, str | None]:
    if not first:
        return reported, second
    if second is None and reported and reported.casefold() != first.casefold():
        return first, reported
    return first, second


def _outranks(rank: tuple[bool, datetime, str], order: OrderRow) -> bool:
    if order.number_at is None or order.number_event_id is None:
        return True
    return rank > (order.number_swapped, order.number_at, order.number_event_id)
