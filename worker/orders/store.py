"""Reads, locks and writes the rows of orders."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from sqlalchemy import String, bindparam, exists, or_, select
from sqlmodel import Session
from ulid import ULID

from receiver.database import bulk
from receiver.database.engine import UtcTime
from receiver.database.row_values import OneOf
from receiver.providers.phone_numbers import normal_number
from receiver.vault.sealing import Vault
from worker.schema.models import Order, OrderNumber, OrderTransition, table_of
from worker.schema.states import CREATED, UNPAID_ENDS

_ORDERS = table_of(Order)
_TRANSITIONS = table_of(OrderTransition)
_NUMBERS = table_of(OrderNumber)
Key = tuple[str, str]


@dataclass(slots=True, kw_only=True)
class OrderRow:
    """A row of ``orders`` as plain values: see :class:`Order`.

    Making an ORM object costs a fifth of handling an event. ``number`` is the plain phone
    number if a report set it; it is not read from the database.
    """

    id: str
    provider: str
    order_id: str
    status: str = CREATED
    phone_number: bytes | None = None
    phone_digest: str | None = None
    number_swapped: bool = False
    number_at: datetime | None = None
    number_event_id: str | None = None
    service: str | None = None
    country: str | None = None
    service_alias: str | None = None
    country_alias: str | None = None
    price: str | None = None
    created_at: datetime
    updated_at: datetime
    confirmed_at: datetime | None = None
    expires_at: datetime | None = None
    forgotten_at: datetime | None = None
    number: str | None = field(default=None, repr=False)

    @property
    def key(self) -> Key:
        """Provider and the provider's order id: the unique key."""
        return self.provider, self.order_id

    def open_number(self, vault: Vault) -> str | None:
        """The plain phone number."""
        return self.number or open_number(vault, self.phone_number, order=self.id)


_COLUMNS: Final = tuple(column.name for column in _ORDERS.columns)
_UPDATED: Final = tuple(
    name for name in _COLUMNS if name not in {"provider", "order_id", "created_at", "forgotten_at"}
)
_KEYS: Final = OneOf("keys", _ORDERS.c.provider, _ORDERS.c.order_id)
_ROWS: Final = select(_ORDERS).where(_KEYS.condition)
# In this order by every transaction, to avoid deadlocks.
_LOCKED: Final = _ROWS.order_by(_ORDERS.c.provider, _ORDERS.c.order_id).with_for_update()
_RECORDED: Final = select(_TRANSITIONS.c.id).where(
    _TRANSITIONS.c.order_ref == bindparam("order", type_=String),
    _TRANSITIONS.c.event_id == bindparam("event", type_=String),
)
_FORMER: Final = select(_NUMBERS.c.id).where(
    _NUMBERS.c.order_ref == bindparam("order", type_=String),
    _NUMBERS.c.phone_digest == bindparam("digest", type_=String),
    _NUMBERS.c.since <= bindparam("swapped", type_=UtcTime),
)
_UNPAID: Final = sorted(UNPAID_ENDS)
_STATUSES: Final = select(
    _ORDERS.c.order_id,
    _ORDERS.c.status,
    exists().where(
        _TRANSITIONS.c.order_ref == _ORDERS.c.id,
        or_(_TRANSITIONS.c.to_status.in_(_UNPAID), _TRANSITIONS.c.kind.in_(_UNPAID)),
    ),
).where(
    _ORDERS.c.provider == bindparam("provider", type_=String),
    _ORDERS.c.order_id.in_(bindparam("orders", expanding=True, type_=String)),
)


def came_after_swap(
    session: Session, order: OrderRow, phone_digest: str | None, at: datetime | None
) -> bool:
    """Whether a code that came at this time came to a number that was swapped away before."""
    if not order.number_swapped or phone_digest in {None, order.phone_digest}:
        return False
    bound = {"order": order.id, "digest": phone_digest, "swapped": order.number_at}
    is_later = at is None or order.number_at is None or at > order.number_at
    return is_later and session.connection().execute(_FORMER, bound).first() is not None


def find(session: Session, provider: str, order_ids: Iterable[str]) -> dict[str, OrderRow]:
    """The known orders among ``order_ids``, by the provider's id, not locked."""
    keys = [(provider, order_id) for order_id in order_ids]
    rows = session.connection().execute(_ROWS, _KEYS.bound(keys)) if keys else ()
    return {row.order_id: OrderRow(**row._mapping) for row in rows}


def lock(session: Session, keys: Sequence[Key]) -> list[OrderRow]:
    """Lock the orders ``keys`` until the transaction ends."""
    rows = session.connection().execute(_LOCKED, _KEYS.bound(keys)) if keys else ()
    return [OrderRow(**row._mapping) for row in rows]


def find_or_create(session: Session, provider: str, order_id: str, *, now: datetime) -> OrderRow:
    """The order, locked for this transaction; a new one is in state ``created``."""
    new = OrderRow(
        id=str(ULID()), provider=provider, order_id=order_id, created_at=now, updated_at=now
    )
    if insert(session, [new]):
        return new
    (order,) = lock(session, [new.key])
    return order


def insert(session: Session, orders: Sequence[OrderRow]) -> set[str]:
    """Insert and lock those ``orders``, sorted by key, that are unknown; return their ids."""
    rows = [_values(order, _COLUMNS) for order in orders]
    return bulk.insert_new(session.connection(), _ORDERS, rows) if rows else set()


def update(session: Session, orders: Sequence[OrderRow]) -> None:
    """Write locked orders back."""
    rows = [_values(order, _UPDATED) for order in orders]
    if rows:
        bulk.update(session.connection(), _ORDERS, rows, keys=("id",))


def _values(order: OrderRow, columns: Sequence[str]) -> dict[str, Any]:
    return {name: getattr(order, name) for name in columns}


def open_number(vault: Vault, sealed: bytes | None, *, order: str) -> str | None:
    """The number that was sealed for the order with the id ``order``."""
    return vault.open_text(sealed, table=_ORDERS.name, column="phone_number", row=order)


def has_number(vault: Vault, order: OrderRow, number: str) -> bool:
    """Whether ``number``, in any spelling, is the order's number now."""
    ours = order.open_number(vault)
    return ours is not None and (
        normal_number(ours, order.country) == normal_number(number, order.country)
    )


def is_recorded(session: Session, order: OrderRow, event_id: str | None) -> bool:
    """Whether the event has a transition: it may be applied again in a later state."""
    bound = {"order": order.id, "event": event_id}
    return session.connection().execute(_RECORDED, bound).first() is not None


@dataclass(frozen=True, slots=True)
class OrderStatus:
    """The furthest state of an order, and whether it was ever reported cancelled or expired."""

    status: str
    ended_unpaid: bool


def statuses(session: Session, provider: str, order_ids: Sequence[str]) -> dict[str, OrderStatus]:
    """The status of each known order among ``order_ids``, not locked."""
    bound = {"provider": provider, "orders": list(order_ids)}
    found = session.connection().execute(_STATUSES, bound) if order_ids else ()
    return {order: OrderStatus(status, bool(ended)) for order, status, ended in found}
