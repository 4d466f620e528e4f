"""One order at a time: find it, lock it, advance it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from sqlalchemy import String, bindparam, exists, or_, sql
from sqlmodel import Session, col, select
from ulid import ULID

from receiver.database.engine import insert_once
from receiver.providers.phone_numbers import normal_number
from receiver.vault.sealing import Vault
from worker.orders import merge as order_merge
from worker.schema.models import Order, OrderNumber, OrderTransition, table_of
from worker.schema.states import CREATED, UNPAID_ENDS

_ORDERS = table_of(Order)
_NUMBERS = table_of(OrderNumber)
_TRANSITIONS = table_of(OrderTransition)
# Built once: building a statement costs more than running it.
_LOCKED: Final = (
    select(Order)
    .where(
        col(Order.provider) == bindparam("provider", type_=String),
        col(Order.order_id) == bindparam("order_id", type_=String),
    )
    .with_for_update()
)
_UNPAID: Final = sorted(UNPAID_ENDS)
_STATUSES: Final = sql.select(
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


def find(session: Session, provider: str, order_id: str) -> Order | None:
    """The order, not locked; None if it is unknown."""
    chosen = select(Order).where(col(Order.provider) == provider, col(Order.order_id) == order_id)
    return session.exec(chosen).first()


def open_number(vault: Vault, sealed: bytes | None, *, order: str) -> str | None:
    """The number that was sealed for the order with the id ``order``."""
    return vault.open_text(sealed, table=_ORDERS.name, column="phone_number", row=order)


def merge_names(order: Order, service: str | None, country: str | None) -> None:
    """Keep the first name of the order's service and country, and the first other one beside it."""
    order_merge.merge_names(order, service, country)


def has_number(vault: Vault, order: Order, number: str) -> bool:
    """Whether ``number``, in any spelling, is the order's number now."""
    ours = open_number(vault, order.phone_number, order=order.id)
    return ours is not None and (
        normal_number(ours, order.country) == normal_number(number, order.country)
    )


def find_or_create(session: Session, provider: str, order_id: str, *, now: datetime) -> Order:
    """The order, locked for this transaction; a new one is in state ``created``."""
    new = {
        "id": str(ULID()),
        "provider": provider,
        "order_id": order_id,
        "status": CREATED,
        "number_swapped": False,
        "created_at": now,
        "updated_at": now,
    }
    insert_once(session, _ORDERS, new)
    bound = {"provider": provider, "order_id": order_id}
    return session.exec(_LOCKED, params=bound).one()


def advance(
    session: Session,
    order: Order,
    state: str,
    *,
    kind: str,
    event_id: str | None,
    at: datetime,
    now: datetime,
    swapped: bool = False,
) -> None:
    """Move ``order`` to ``state`` if that is further, and record the transition."""
    transition = order_merge.advance(
        order,
        state,
        row_id=str(ULID()),
        kind=kind,
        event_id=event_id,
        at=at,
        now=now,
        swapped=swapped,
        is_recorded=lambda: is_recorded(session, order.id, event_id),
    )
    if transition is not None:
        insert_once(session, _TRANSITIONS, transition)


def is_recorded(session: Session, order: str, event_id: str | None) -> bool:
    """Whether the event has a transition: it may be applied again in a later state."""
    if event_id is None:
        return False
    known = select(OrderTransition.id).where(
        col(OrderTransition.order_ref) == order, col(OrderTransition.event_id) == event_id
    )
    return session.exec(known).first() is not None


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


def merge_number(
    session: Session, vault: Vault, order: Order, number: str, rank: tuple[bool, datetime, str]
) -> None:
    """Store ``number``, and make it the order's if its ``rank`` is the highest so far."""
    row = order_merge.merge_number(vault, order, number, rank, row_id=str(ULID()))
    if row is not None:
        insert_once(session, _NUMBERS, row)
