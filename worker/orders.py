"""What one event says about an order, merged into what is known of it.

Merging gives the same order whatever the sequence of events: the state is a maximum, the number
that of the latest report, and everything descriptive is kept once it is known.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from sqlalchemy import String, bindparam, exists, or_, sql
from sqlmodel import Session, col, select
from ulid import ULID

from receiver.database import insert_unless_taken
from receiver.events import OrderEvent, OrderSwapped
from receiver.row_values import OneOf
from receiver.vault import Vault
from worker import inserts, order_states
from worker.models import Order, OrderNumber, OrderTransition, table_of
from worker.routing import Subject

_ORDERS = table_of(Order)
_NUMBERS = table_of(OrderNumber)
_TRANSITIONS = table_of(OrderTransition)
_PLACES: Final = OneOf("places", _ORDERS.c.provider, _ORDERS.c.order_id)
# Built once, since to build a statement costs more than to run it.
_LOCKED: Final = (
    select(Order)
    .where(_PLACES.condition)
    .order_by(col(Order.provider), col(Order.order_id))
    .with_for_update()
)
_UNPAID: Final = sorted(order_states.UNPAID_ENDS)
_STANDINGS: Final = sql.select(
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


def report(
    session: Session,
    vault: Vault,
    order: Order,
    event: OrderEvent,
    *,
    event_id: str,
    arrived: datetime,
    now: datetime,
) -> None:
    """Merge everything that ``event`` says into the locked order that it is about."""
    at = event.at or arrived
    swapped = isinstance(event, OrderSwapped)
    advance(
        session,
        order,
        order_states.reported(event),
        kind="swapped" if swapped else "reported",
        event_id=event_id,
        at=at,
        now=now,
        swapped=swapped,
    )
    order.service = order.service or event.service
    order.country = order.country or event.country
    if event.phone_number:
        rank = (swapped, at, event_id)
        merge_number(session, vault, order, event.phone_number, rank)
    order.updated_at = now


def find(session: Session, provider: str, order_id: str) -> Order | None:
    """What is known of an order, not locked."""
    chosen = select(Order).where(col(Order.provider) == provider, col(Order.order_id) == order_id)
    return session.exec(chosen).first()


def subject(vault: Vault, order: Order, event_type: str) -> Subject:
    """What a route may know about an event of ``order``."""
    return Subject(
        type=event_type,
        provider=order.provider,
        service=order.service,
        country=order.country,
        phone_number=open_number(vault, order.id, order.phone_number),
        order_state=order.status,
    )


def open_number(vault: Vault, row: str, sealed: bytes | None) -> str | None:
    """The plain number that the order with the id ``row`` has now, if one is known."""
    return vault.open_text(sealed, table=_ORDERS.name, column="phone_number", row=row)


def find_or_create(session: Session, provider: str, order_id: str, *, now: datetime) -> Order:
    """The order, locked for this transaction; a new one has been ``created`` and nothing more."""
    return enter(session, [(provider, order_id)], now=now)[provider, order_id]


def enter(
    session: Session, places: Iterable[tuple[str, str]], *, now: datetime
) -> dict[tuple[str, str], Order]:
    """:func:`find_or_create` for many, by provider and the provider's id."""
    # Everybody locks in one sequence, or two transactions could wait for each other.
    wanted = sorted(set(places))
    if not wanted:
        return {}
    new = [
        {
            "id": str(ULID()),
            "provider": provider,
            "order_id": order_id,
            "status": order_states.CREATED,
            "number_swapped": False,
            "created_at": now,
            "updated_at": now,
        }
        for provider, order_id in wanted
    ]
    session.connection().execute(insert_unless_taken(session, _ORDERS), new)
    found = session.exec(_LOCKED, params=_PLACES.bound(wanted))
    return {(order.provider, order.order_id): order for order in found}


def advance(
    session: Session,
    order: Order,
    said: str,
    *,
    kind: str,
    event_id: str | None,
    at: datetime,
    now: datetime,
    swapped: bool = False,
) -> None:
    """Move ``order`` to the state ``said`` if that is further, and record the step.

    Two things are recorded even where the state stays: a swap, for the number is what it changed,
    and an unpaid end that the order had gone past already, under its own name as the kind.
    """
    before = order.status
    order.status = order_states.furthest(before, said)
    if order.status == order_states.CONFIRMED and order.confirmed_at is None:
        order.confirmed_at = at
    if order.status == before:
        outrun = said != before and said in order_states.UNPAID_ENDS
        if not (outrun or swapped) or _is_recorded(session, order, event_id):
            return
        kind = said if outrun else kind
    inserts.insert(
        session,
        _TRANSITIONS,
        {
            "id": str(ULID()),
            "order_ref": order.id,
            "event_id": event_id,
            "kind": kind,
            "from_status": before,
            "to_status": order.status,
            "at": at,
            "recorded_at": now,
        },
    )


def _is_recorded(session: Session, order: Order, event_id: str | None) -> bool:
    """Whether the event has its row already: it may be applied again in a later state."""
    if event_id is None:
        return False
    known = select(OrderTransition.id).where(
        col(OrderTransition.order_ref) == order.id, col(OrderTransition.event_id) == event_id
    )
    return session.exec(known).first() is not None


@dataclass(frozen=True, slots=True)
class Standing:
    """The furthest state of an order, and whether anybody ever said it was cancelled or expired."""

    status: str
    ended_unpaid: bool


def standings(session: Session, provider: str, order_ids: Sequence[str]) -> dict[str, Standing]:
    """How those of the orders stand that are known, not locked."""
    bound = {"provider": provider, "orders": list(order_ids)}
    found = session.connection().execute(_STANDINGS, bound) if order_ids else ()
    return {order: Standing(status, bool(ended)) for order, status, ended in found}


def merge_number(
    session: Session, vault: Vault, order: Order, number: str, rank: tuple[bool, datetime, str]
) -> None:
    """Remember ``number``, and make it the order's if its ``rank`` is the highest so far.

    Not for an order that somebody asked to be forgotten: a provider that tells of it again must
    not bring the number back.
    """
    if order.forgotten_at is not None:
        return
    digest = vault.digest("phone", number)
    row = str(ULID())
    inserts.insert(
        session,
        _NUMBERS,
        {
            "id": row,
            "order_ref": order.id,
            "phone_number": vault.seal(number, table=_NUMBERS.name, column="phone_number", row=row),
            "phone_digest": digest,
            "since": rank[1],
        },
    )
    if order.number_at is not None and order.number_event_id is not None:
        known = (order.number_swapped, order.number_at, order.number_event_id)
        if known >= rank:
            return
    order.number_swapped, order.number_at, order.number_event_id = rank
    if order.phone_digest != digest:
        order.phone_digest = digest
        order.phone_number = vault.seal(
            number, table=_ORDERS.name, column="phone_number", row=order.id
        )
