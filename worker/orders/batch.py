"""Merges what many events report about their orders, with few statements.

Most events are the first of their order. So each order is assumed to be new, and is inserted with
everything reported about it already merged; if it existed, the reports are merged again into the
existing row.
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
_KEYS: Final = OneOf("keys", _ORDERS.c.provider, _ORDERS.c.order_id)
# The columns that an event may change, those of a new row, and those that are read.
_UPDATED: Final = (
    *("status", "phone_number", "phone_digest", "number_swapped", "number_at", "number_event_id"),
    *("service", "country", "service_alias", "country_alias", "confirmed_at", "updated_at"),
)
_INSERTED: Final = ("id", "provider", "order_id", "created_at", *_UPDATED)
_READ: Final = (*_INSERTED, "expires_at", "forgotten_at")
# Built once: building a statement costs more than running it.
_LOCKED: Final = (
    select(*(_ORDERS.c[name] for name in _READ))
    .where(_KEYS.condition)
    .order_by(_ORDERS.c.provider, _ORDERS.c.order_id)
    .with_for_update()
)
_Key = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Report:
    """What the event ``event_id``, which arrived at ``arrived_at``, reports about an order."""

    event: OrderEvent
    event_id: str
    arrived_at: datetime

    @property
    def key(self) -> _Key:
        """Provider and the provider's order id: the unique key of an order."""
        return self.event.provider, self.event.order_id


@dataclass(slots=True)
class Snapshot:
    """An order at one moment: right after one event, or now."""

    id: str
    provider: str
    status: str
    service: str | None
    country: str | None
    service_alias: str | None
    country_alias: str | None
    expires_at: datetime | None
    _sealed: bytes | None
    _number: str | None = field(repr=False)
    _vault: Vault

    @classmethod
    def of(cls, order: AnyOrder, vault: Vault) -> Snapshot:
        """The order as it is now."""
        number = order.number if isinstance(order, OrderRow) else None
        return cls(
            order.id, order.provider, order.status, order.service, order.country,
            order.service_alias, order.country_alias, order.expires_at, order.phone_number,
            number, vault,
        )  # fmt: skip

    @property
    def phone_number(self) -> str | None:
        """The plain number. It is opened only on access."""
        return self._number or orders.open_number(self._vault, self._sealed, order=self.id)


def write(
    session: Session, vault: Vault, reports: Sequence[Report], *, now: datetime
) -> list[Snapshot]:
    """Merge ``reports`` into their orders; return each order as it stood after its report.

    The orders stay locked until the transaction ends. Reporting the same again changes nothing.
    Every transaction locks in one order, to avoid deadlocks: first the inserted rows, sorted, then
    the existing ones, sorted.
    """
    merger = _Merger(session, vault, now)
    connection = session.connection()
    reports_of: dict[_Key, list[Report]] = {}
    for each in reports:
        reports_of.setdefault(each.key, []).append(each)
    keys = sorted(reports_of)
    assumed_new = {key: merger.new(key, reports_of[key]) for key in keys}
    rows = [{name: getattr(assumed_new[key].order, name) for name in _INSERTED} for key in keys]
    inserted = bulk.insert_new(connection, _ORDERS, rows) if rows else set()
    merged = {key: each for key, each in assumed_new.items() if each.order.id in inserted}
    existing = [key for key in keys if key not in merged]
    locked = connection.execute(_LOCKED, _KEYS.bound(existing)) if existing else ()
    known_orders = [OrderRow(**row._mapping) for row in locked]
    for order in known_orders:
        key = order.provider, order.order_id
        merged[key] = merger.merge_into(order, reports_of[key])
    _update(session, known_orders)
    _insert_details(session, [merged[key] for key in keys])
    snapshot = {id_: each for one in merged.values() for id_, each in one.snapshots.items()}
    return [snapshot[each.event_id] for each in reports]


@dataclass(slots=True)
class _MergedOrder:
    """An order with its reports merged: new transitions and numbers, a snapshot per event id."""

    order: OrderRow
    transitions: list[Values] = field(default_factory=list)
    numbers: list[Values] = field(default_factory=list)
    snapshots: dict[str, Snapshot] = field(default_factory=dict)


@dataclass(slots=True)
class _Merger:
    session: Session
    vault: Vault
    now: datetime
    ids: Iterator[str] = field(default_factory=endless_ids)

    def new(self, key: _Key, reports: Sequence[Report]) -> _MergedOrder:
        """A new order, with only these reports merged into it."""
        provider, order_id = key
        order = OrderRow(
            id=next(self.ids), provider=provider, order_id=order_id,
            status=CREATED, created_at=self.now, updated_at=self.now,
        )  # fmt: skip
        return self.merge_into(order, reports)

    def merge_into(self, order: OrderRow, reports: Sequence[Report]) -> _MergedOrder:
        """Merge the reports into the order, one after the other."""
        merged = _MergedOrder(order)
        for each in reports:
            self._merge(merged, each)
            merged.snapshots[each.event_id] = Snapshot.of(order, self.vault)
        return merged

    def _merge(self, merged: _MergedOrder, report: Report) -> None:
        order, event, event_id = merged.order, report.event, report.event_id
        at = event.at or report.arrived_at
        swapped = isinstance(event, OrderSwapped)
        transition = order_merge.advance(
            order,
            state_machine.reported(event),
            row_id=next(self.ids),
            kind="swapped" if swapped else "reported",
            event_id=event_id,
            at=at,
            now=self.now,
            swapped=swapped,
            is_recorded=lambda: orders.is_recorded(self.session, order.id, event_id),
        )
        if transition is not None:
            merged.transitions.append(transition)
        order_merge.merge_names(order, event.service, event.country)
        if event.phone_number:
            rank = (swapped, at, event_id)
            number = order_merge.merge_number(
                self.vault, order, event.phone_number, rank, row_id=next(self.ids)
            )
            if number is not None:
                merged.numbers.append(number)
        order.updated_at = self.now


def _update(session: Session, locked: Sequence[OrderRow]) -> None:
    rows: list[dict[str, Any]] = [
        {name: getattr(order, name) for name in ("id", *_UPDATED)} for order in locked
    ]
    if rows:
        bulk.update(session.connection(), _ORDERS, rows, keys=("id",))


def _insert_details(session: Session, merged: Sequence[_MergedOrder]) -> None:
    """Insert the transitions and numbers. Their orders are locked, so any order of rows is safe."""
    for table, rows in (
        (_TRANSITIONS, [row for each in merged for row in each.transitions]),
        (_NUMBERS, [row for each in merged for row in each.numbers]),
    ):
        if rows:
            bulk.insert_new(session.connection(), table, rows)
