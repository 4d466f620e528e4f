"""List filters, and their translation to SQL conditions that use indexes."""

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
# Ids come from one host's clock and times from another's, so an id only narrows the search.
_SKEW = timedelta(minutes=5)
_LAST_MILLISECOND = 2**48 - 1
_RANDOM_BYTES = 10
# A number has few orders; if it has more, only the newest ones are searched.
_MAX_ORDERS = 1_000
_PHONE_PUNCTUATION = re.compile(r"[\s().\-]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Filters:
    """Filters of a list; None matches every row.

    ``since`` (inclusive) and ``until`` (exclusive) apply to the time when the row was stored.
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
    """The lowest id that can be generated at ``moment + offset``."""
    milliseconds = int((moment.timestamp() + offset.total_seconds()) * 1000)
    bounded = min(max(milliseconds, 0), _LAST_MILLISECOND)
    return str(ULID.from_bytes(bounded.to_bytes(6, "big") + bytes(_RANDOM_BYTES)))


def differs(state: ColumnElement[str] | Mapped[str], usual: str) -> ColumnElement[bool]:
    """Rows that are not in the ``usual`` state; a partial index holds these few rows.

    SQLite uses that index only if the condition is spelled as in the index, with a literal.
    """
    return state != bindparam("usual", usual, literal_execute=True)


def span(id_: str, at: datetime, filters: Filters) -> Conditions:
    """Rows stored in the filters' period; ``id_`` and ``at`` are the model's columns."""
    conditions: Conditions = []
    if filters.since is not None:
        conditions += [col(id_) >= first_id(filters.since, -_SKEW), col(at) >= filters.since]
    if filters.until is not None:
        conditions += [col(id_) < first_id(filters.until, _SKEW), col(at) < filters.until]
    return conditions


def of_order(provider: str, order_id: str | None, filters: Filters) -> Conditions:
    """Rows of the filters' provider and order; the arguments are the model's columns.

    Every index on orders begins with the provider, so without a provider the condition names all.
    """
    if filters.order is not None:
        providers = [filters.provider] if filters.provider else sorted(registry())
        return [col(order_id) == filters.order, col(provider).in_(providers)]
    return [] if filters.provider is None else [_comes_from(provider, filters.provider)]


def of_event(session: Session, vault: Vault, filters: Filters) -> Conditions:
    """Inbox rows whose provider and order match the filters."""
    conditions: Conditions = []
    if filters.provider is not None:
        conditions.append(_comes_from(InboxEvent.provider, filters.provider))
    if filters.order is not None:
        conditions.append(col(InboxEvent.order_id) == filters.order)
    if filters.phone is not None:
        # A separate query: as a subquery, the planner may read every event.
        orders = select(Order.order_id).where(has_number(vault, filters.phone))
        found = session.exec(orders.order_by(col(Order.id).desc()).limit(_MAX_ORDERS)).all()
        conditions.append(col(InboxEvent.order_id).in_(found))
    if filters.service is not None:
        of_service = select(Order.id).where(
            col(Order.provider) == col(InboxEvent.provider),
            col(Order.order_id) == col(InboxEvent.order_id),
            col(Order.service) == filters.service,
        )
        conditions.append(of_service.exists())
    return conditions


def has_number(vault: Vault, phone: str) -> ColumnElement[bool]:
    """Orders that have or had the phone number."""
    matches = col(OrderNumber.phone_digest).in_(phone_digests(vault, phone))
    return col(Order.id).in_(select(OrderNumber.order_ref).where(matches))


def phone_digests(vault: Vault, phone: str) -> Sequence[str]:
    """Digests of both spellings of a phone number: with and without the plus sign."""
    digits = _PHONE_PUNCTUATION.sub("", phone).removeprefix("+")
    return [vault.digest("phone", spelling) for spelling in (f"+{digits}", digits)]


def _comes_from(provider: str, name: str) -> ColumnElement[bool]:
    # An expression that no index matches: to read and sort all rows of one provider takes longer
    # than to scan the newest rows of all providers.
    return col(provider).concat("") == name


def newest(session: Session, statement: Any, id_: str, filters: Filters) -> list[Any]:
    """Rows of ``statement``, newest first, up to the filters' limit."""
    return list(session.exec(statement.order_by(col(id_).desc()).limit(filters.limit)).all())
