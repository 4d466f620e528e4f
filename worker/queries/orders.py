"""Queries on orders: list, and one order with its history."""

from __future__ import annotations

from sqlmodel import Session, col, select

from receiver.vault.sealing import Vault
from worker.orders.state_machine import is_documented
from worker.queries import codes, followups
from worker.queries.filters import Filters, Row, has_number, named, newest, of_order, span
from worker.schema.models import Confirmation, Order, OrderNumber, OrderTransition, table_of
from worker.schema.states import CONFIRM

_ORDERS = table_of(Order).name
_NUMBERS = table_of(OrderNumber).name


def listed(session: Session, vault: Vault, filters: Filters) -> list[Row]:
    """The newest orders that match; a number matches every order that ever had it."""
    conditions = [
        *of_order(Order.provider, Order.order_id, filters),
        *span(Order.id, Order.created_at, filters),
        *named(filters),
    ]
    if filters.state is not None:
        conditions.append(col(Order.status) == filters.state)
    if filters.phone is not None:
        conditions.append(has_number(session, vault, filters.phone))
    statement = select(Order).where(*conditions)
    return [_row(vault, order) for order in newest(session, statement, Order.id, filters)]


def matching(session: Session, vault: Vault, filters: Filters) -> list[Row]:
    """Orders with the id in ``filters``, at most one for each provider, with their history."""
    statement = select(Order).where(*of_order(Order.provider, Order.order_id, filters))
    return [_with_history(session, vault, order) for order in session.exec(statement).all()]


def _with_history(session: Session, vault: Vault, order: Order) -> Row:
    return {
        **_row(vault, order),
        "service_alias": order.service_alias,
        "country_alias": order.country_alias,
        "expires_at": order.expires_at,
        "codes": codes.of(session, vault, order),
        "numbers": _numbers(session, vault, order),
        "transitions": _transitions(session, order),
        "confirmation": _confirmation(session, order),
    }


def _row(vault: Vault, order: Order) -> Row:
    return {
        "provider": order.provider,
        "order_id": order.order_id,
        "phone_number": vault.open_text(
            order.phone_number, table=_ORDERS, column="phone_number", row=order.id
        ),
        "service": order.service,
        "country": order.country,
        "status": order.status,
        "price": order.price,
        "created_at": order.created_at,
        "updated_at": order.updated_at,
        "confirmed_at": order.confirmed_at,
    }


def _numbers(session: Session, vault: Vault, order: Order) -> list[Row]:
    statement = select(OrderNumber).where(col(OrderNumber.order_ref) == order.id)
    return [
        {
            "phone_number": vault.open_text(
                number.phone_number, table=_NUMBERS, column="phone_number", row=number.id
            ),
            "since": number.since,
        }
        for number in session.exec(statement.order_by(col(OrderNumber.since), col(OrderNumber.id)))
    ]


def _transitions(session: Session, order: Order) -> list[Row]:
    steps = select(OrderTransition).where(col(OrderTransition.order_ref) == order.id)
    return [
        {
            "kind": step.kind,
            "from_status": step.from_status,
            "to_status": step.to_status,
            "documented": is_documented(step.from_status, step.to_status),
            "at": step.at,
            "event": step.event_id,
        }
        for step in session.exec(
            steps.order_by(col(OrderTransition.recorded_at), col(OrderTransition.id))
        )
    ]


def _confirmation(session: Session, order: Order) -> Row | None:
    row = session.exec(
        select(Confirmation)
        .where(
            col(Confirmation.provider) == order.provider,
            col(Confirmation.order_id) == order.order_id,
            col(Confirmation.action) == CONFIRM,
        )
        .order_by(col(Confirmation.id).desc())
    ).first()
    return None if row is None else followups.confirmation(row)
