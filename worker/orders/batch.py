"""What many events say of their orders, merged and written with few statements.

Most events are the first of their order. So an order is taken to be new, and is inserted as it is
after all that is said of it; where it was known, that is merged again into what is known.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from sqlalchemy import select
from sqlmodel import Session

from receiver.database import bulk
from receiver.database.row_values import OneOf
from receiver.events import OrderEvent, OrderSwapped
from receiver.ids import endless_ids
from receiver.vault.sealing import Vault
from worker.orders import merge as order_merge
from worker.orders import state_machine
from worker.orders import store as orders
from worker.orders.merge import AnyOrder, OrderRow, Values
from worker.schema.models import Order, OrderNumber, OrderTransition, table_of
from worker.schema.states import CREATED

_ORDERS = table_of(Order)
_NUMBERS = table_of(OrderNumber)
_TRANSITIONS = table_of(OrderTransition)
_PLACES: Final = OneOf("places", _ORDERS.c.provider, _ORDERS.c.order_id)
# What an event may change of an order, and what else is read of one.
_CHANGED: Final = (
    *("status", "phone_number", "phone_digest", "number_swapped", "number_at", "number_event_id"),
    *("service", "country", "confirmed_at", "updated_at"),
)
_WRITTEN: Final = ("id", "provider", "order_id", "created_at", *_CHANGED)
_READ: Final = (*_WRITTEN, "expires_at", "forgotten_at")
# Built once, since to build a statement costs more than to run it.
_LOCKED: Final = (
    select(*(_ORDERS.c[name] for name in _READ))
    .where(_PLACES.condition)
    .order_by(_ORDERS.c.provider, _ORDERS.c.order_id)
    .with_for_update()
)
_Place = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Report:
    """What the event ``event_id``, which came at ``arrived``, says of an order."""

    event: OrderEvent
    event_id: str
    arrived: datetime

    @property
    def place(self) -> _Place:
        """Provider and the provider's id, by which an order is known."""
        return self.event.provider, self.event.order_id


@dataclass(slots=True)
class Snapshot:
    """An order as it stood at one moment: right after one event, or now."""

    id: str
    provider: str
    status: str
    service: str | None
    country: str | None
    expires_at: datetime | None
    _sealed: bytes | None
    _number: str | None = field(repr=False)
    _vault: Vault

    @classmethod
    def of(cls, order: AnyOrder, vault: Vault) -> Snapshot:
        """The order as it stands."""
        number = order.number if isinstance(order, OrderRow) else None
        return cls(
            order.id, order.provider, order.status, order.service, order.country,
            order.expires_at, order.phone_number, number, vault,
        )  # fmt: skip

    @property
    def phone_number(self) -> str | None:
        """The plain number, opened only where somebody asks for it."""
        return self._number or orders.open_number(self._vault, self._sealed, order=self.id)


def write(
    session: Session, vault: Vault, reports: Sequence[Report], *, now: datetime
) -> list[Snapshot]:
    """Merge what is reported into the orders, which stay locked; how each stands by its report.

    Reporting the same again changes nothing. Everybody locks in one sequence, or two transactions
    could wait for each other: what is inserted first, sorted, and then what was known, sorted.
    """
    merged = _Merging(session, vault, now)
    connection = session.connection()
    of_place: dict[_Place, list[Report]] = {}
    for each in reports:
        of_place.setdefault(each.place, []).append(each)
    places = sorted(of_place)
    fresh = {place: merged.new(place, of_place[place]) for place in places}
    rows = [{name: getattr(fresh[each].order, name) for name in _WRITTEN} for each in places]
    added = bulk.insert_new(connection, _ORDERS, rows) if rows else set()
    done = {place: each for place, each in fresh.items() if each.order.id in added}
    known = [place for place in places if place not in done]
    locked = connection.execute(_LOCKED, _PLACES.bound(known)) if known else ()
    again = [OrderRow(**row._mapping) for row in locked]
    for order in again:
        place = order.provider, order.order_id
        done[place] = merged.into(order, of_place[place])
    _update(session, again)
    _insert_rows(session, [done[place] for place in places])
    snapshot = {id_: each for one in done.values() for id_, each in one.snapshots.items()}
    return [snapshot[each.event_id] for each in reports]


@dataclass(slots=True)
class _Merged:
    """An order with all that is said of it: its steps and numbers, and how it stood meanwhile."""

    order: OrderRow
    steps: list[Values] = field(default_factory=list)
    numbers: list[Values] = field(default_factory=list)
    snapshots: dict[str, Snapshot] = field(default_factory=dict)


@dataclass(slots=True)
class _Merging:
    session: Session
    vault: Vault
    now: datetime
    ids: Iterator[str] = field(default_factory=endless_ids)

    def new(self, place: _Place, reports: Sequence[Report]) -> _Merged:
        """An order of which nothing else is known."""
        provider, order_id = place
        order = OrderRow(
            id=next(self.ids), provider=provider, order_id=order_id,
            status=CREATED, created_at=self.now, updated_at=self.now,
        )  # fmt: skip
        return self.into(order, reports)

    def into(self, order: OrderRow, reports: Sequence[Report]) -> _Merged:
        """The order with what is reported, in its sequence."""
        merged = _Merged(order)
        for each in reports:
            self._merge(merged, each)
            merged.snapshots[each.event_id] = Snapshot.of(order, self.vault)
        return merged

    def _merge(self, merged: _Merged, report: Report) -> None:
        order, event, event_id = merged.order, report.event, report.event_id
        at = event.at or report.arrived
        swapped = isinstance(event, OrderSwapped)
        step = order_merge.advance(
            order,
            state_machine.reported(event),
            row=next(self.ids),
            kind="swapped" if swapped else "reported",
            event_id=event_id,
            at=at,
            now=self.now,
            swapped=swapped,
            recorded=lambda: orders.is_recorded(self.session, order.id, event_id),
        )
        if step is not None:
            merged.steps.append(step)
        order.service = order.service or event.service
        order.country = order.country or event.country
        if event.phone_number:
            rank = (swapped, at, event_id)
            number = order_merge.take_number(
                self.vault, order, event.phone_number, rank, row=next(self.ids)
            )
            if number is not None:
                merged.numbers.append(number)
        order.updated_at = self.now


def _update(session: Session, locked: Sequence[OrderRow]) -> None:
    rows: list[dict[str, Any]] = [
        {name: getattr(order, name) for name in ("id", *_CHANGED)} for order in locked
    ]
    if rows:
        bulk.update(session.connection(), _ORDERS, rows, keys=("id",))


def _insert_rows(session: Session, merged: Sequence[_Merged]) -> None:
    """The steps and the numbers of the orders: of rows that are locked, so in no special order."""
    for table, rows in (
        (_TRANSITIONS, [row for each in merged for row in each.steps]),
        (_NUMBERS, [row for each in merged for row in each.numbers]),
    ):
        if rows:
            bulk.insert_new(session.connection(), table, rows)
