"""What a list is narrowed by, and how that becomes conditions that an index can answer."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, bindparam
from sqlalchemy.orm import Mapped
from sqlmodel import Session, col, select
from ulid import ULID

from receiver.inbox.store import InboxEvent
from receiver.providers.registry import registry
from receiver.vault.sealing import Vault
from worker.schema.models import Order, OrderNumber

Row = dict[str, Any]
Conditions = list[ColumnElement[bool]]

DEFAULT_LIMIT = 50
# Ids are made on one host's clock and times are read from another's: ids only narrow the search.
_SKEW = timedelta(minutes=5)
_LAST_MILLISECOND = 2**48 - 1
_RANDOM_BYTES = 10
# One number serves few orders; one that serves more is searched in the newest of them.
_MOST_ORDERS = 1_000
_NOT_IN_A_NUMBER = re.compile(r"[\s().\-]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Filters:
    """Which rows of a list are wanted; None wants any.

    ``since`` is inclusive and ``until`` is not; both are compared with when the row was stored.
    """

    provider: str | None = None
    service: str | None = None
    phone: str | None = None
    order: str | None = None
    state: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    limit: int = DEFAULT_LIMIT


def first_id(moment: datetime, offset: timedelta = timedelta(0)) -> str:
    """The least id that could have been made at ``moment + offset``."""
    milliseconds = int((moment.timestamp() + offset.total_seconds()) * 1000)
    bounded = min(max(milliseconds, 0), _LAST_MILLISECOND)
    return str(ULID.from_bytes(bounded.to_bytes(6, "big") + bytes(_RANDOM_BYTES)))


def differs(state: ColumnElement[str] | Mapped[str], usual: str) -> ColumnElement[bool]:
    """Rows that are not in the ``usual`` state: they are few, and have an index of their own.

    SQLite uses it only where the condition is spelled as the index has it.
    """
    return state != bindparam("usual", usual, literal_execute=True)


def span(id_: str, at: datetime, filters: Filters) -> Conditions:
    """The rows stored within the span of time; ``id_`` and ``at`` are the model's columns."""
    conditions: Conditions = []
    if filters.since is not None:
        conditions += [col(id_) >= first_id(filters.since, -_SKEW), col(at) >= filters.since]
    if filters.until is not None:
        conditions += [col(id_) < first_id(filters.until, _SKEW), col(at) < filters.until]
    return conditions


def of_order(provider: str, order_id: str | None, filters: Filters) -> Conditions:
    """The rows of one provider, one order, or both; the arguments are the model's columns.

    Every index of orders begins with the provider, so where none is named all are.
    """
    if filters.order is not None:
        named = [filters.provider] if filters.provider else sorted(registry())
        return [col(order_id) == filters.order, col(provider).in_(named)]
    return [] if filters.provider is None else [_comes_from(provider, filters.provider)]


def of_event(session: Session, vault: Vault, filters: Filters) -> Conditions:
    """The inbox rows whose provider and order fit."""
    conditions: Conditions = []
    if filters.provider is not None:
        conditions.append(_comes_from(InboxEvent.provider, filters.provider))
    if filters.order is not None:
        conditions.append(col(InboxEvent.order_id) == filters.order)
    if filters.phone is not None:
        # Looked up first: within one statement, a planner may prefer to read every event.
        orders = select(Order.order_id).where(has_number(vault, filters.phone))
        found = session.exec(orders.order_by(col(Order.id).desc()).limit(_MOST_ORDERS)).all()
        conditions.append(col(InboxEvent.order_id).in_(found))
    if filters.service is not None:
        ordered = select(Order.id).where(
            col(Order.provider) == col(InboxEvent.provider),
            col(Order.order_id) == col(InboxEvent.order_id),
            col(Order.service) == filters.service,
        )
        conditions.append(ordered.exists())
    return conditions


def has_number(vault: Vault, phone: str) -> ColumnElement[bool]:
    """Orders that have, or had, the number ``phone``."""
    had = col(OrderNumber.phone_digest).in_(phone_digests(vault, phone))
    return col(Order.id).in_(select(OrderNumber.order_ref).where(had))


def phone_digests(vault: Vault, phone: str) -> Sequence[str]:
    """What a number may be found by, however it was written: with and without the plus."""
    digits = _NOT_IN_A_NUMBER.sub("", phone).removeprefix("+")
    return [vault.digest("phone", spelling) for spelling in (f"+{digits}", digits)]


def _comes_from(provider: str, name: str) -> ColumnElement[bool]:
    # As an expression, which no index answers: to read all rows of a provider, and sort them,
    # would take longer than to read the newest rows of all.
    return col(provider).concat("") == name


def newest(session: Session, statement: Any, id_: str, filters: Filters) -> list[Any]:
    """The rows of ``statement``, newest first, as many as are wanted."""
    return list(session.exec(statement.order_by(col(id_).desc()).limit(filters.limit)).all())
