"""List filters, and their translation to SQL conditions that use indexes."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, bindparam, false, func, or_
from sqlalchemy.orm import Mapped
from sqlmodel import Session, col, select
from ulid import ULID

from receiver.inbox.store import InboxEvent
from receiver.providers.registry import registry
from receiver.vault.sealing import Vault
from worker.orders import numbers
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
# How many of the newest orders are read for the names of their services or countries.
_MAX_NAMED_ORDERS = 100_000

_GLOB = re.compile(r"[*?\[]")
# The names that an order's service and country have.
SERVICE = col(Order.service), col(Order.service_alias)
COUNTRY = col(Order.country), col(Order.country_alias)


@dataclass(frozen=True, slots=True, kw_only=True)
class Filters:
    """Filters of a list; None matches every row.

    ``service`` and ``country`` are names or globs, in any case; ``phone`` is in any spelling.
    ``since`` (inclusive) and ``until`` (exclusive) apply to the time when the row was stored.
    """

    provider: str | None = None
    service: str | None = None
    country: str | None = None
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
        orders = select(Order.order_id).where(has_number(session, vault, filters.phone))
        found = session.exec(orders.order_by(col(Order.id).desc()).limit(_MAX_ORDERS)).all()
        conditions.append(col(InboxEvent.order_id).in_(found))
    if filters.service is not None or filters.country is not None:
        of_order = select(Order.id).where(
            col(Order.provider) == col(InboxEvent.provider),
            col(Order.order_id) == col(InboxEvent.order_id),
            *named(filters),
        )
        conditions.append(of_order.exists())
    return conditions


def named(filters: Filters) -> Conditions:
    """Orders with the filters' service and country, each under either of its names."""
    conditions: Conditions = []
    if filters.service is not None:
        conditions.append(is_named(filters.service, *SERVICE))
    if filters.country is not None:
        conditions.append(is_named(filters.country, *COUNTRY))
    return conditions


def is_named(pattern: str, *columns: ColumnElement[Any] | Mapped[Any]) -> ColumnElement[bool]:
    """Rows where one of the columns matches a name or a glob, in any case."""
    if _GLOB.search(pattern):
        regex = _regex_of(pattern)
        return or_(false(), *(each.regexp_match(regex) for each in columns if regex))
    # A database's lower() may leave all but ASCII as it is.
    return or_(*(or_(each == pattern, func.lower(each) == pattern.lower()) for each in columns))


def _regex_of(pattern: str) -> str | None:
    """A glob as a regular expression that SQLite (Python's) and PostgreSQL read alike.

    None if it matches nothing, such as ``[z-a]``.
    """
    parts, at = [], 0
    while at < len(pattern):
        character, at = pattern[at], at + 1
        closing = pattern.find("]", at + 1 + pattern.startswith("!", at))
        if character == "*":
            parts.append(".*")
        elif character == "?":
            parts.append(".")
        elif character == "[" and closing > 0:
            members, at = pattern[at:closing], closing + 1
            negated = members.startswith("!")
            allowed = "".join(_members(members.removeprefix("!")))
            if not allowed and not negated:
                return None
            parts.append(f"[{'^' if negated else ''}{allowed}]" if allowed else ".")
        else:
            parts.append(_escaped(character))
    return f"(?i)\\A{''.join(parts)}\\Z"


def _members(members: str) -> Iterator[str]:
    """The characters and ranges of a bracket expression, without ranges that are empty."""
    while members:
        first, last = members[0], members[2:3]
        if members[1:2] == "-" and last:
            if first <= last:
                yield f"{_escaped(first)}-{_escaped(last)}"
            members = members[3:]
        else:
            yield _escaped(first)
            members = members[1:]


def _escaped(character: str) -> str:
    return character if character.isalnum() else f"\\{character}"


def has_number(session: Session, vault: Vault, phone: str) -> ColumnElement[bool]:
    """Orders that have or had the phone number."""
    matches = col(OrderNumber.phone_digest).in_(phone_digests(session, vault, phone))
    return col(Order.id).in_(select(OrderNumber.order_ref).where(matches))


def phone_spellings(session: Session, phone: str) -> set[str]:
    """How the phone number that a person typed may be stored.

    One without a calling code may be of any country that orders have.
    """
    countries = () if numbers.is_international(phone) else _countries(session)
    return numbers.spellings(phone, countries)


def phone_digests(session: Session, vault: Vault, phone: str) -> Sequence[str]:
    """Digests of all spellings in which the phone number may be stored."""
    return sorted(vault.digest("phone", each) for each in phone_spellings(session, phone))


def _countries(session: Session) -> list[str]:
    names = {name.upper() for name in newest_names(session, *COUNTRY)}
    return sorted(filter(numbers.is_region, names))


def newest_names(session: Session, name: Mapped[Any], alias: Mapped[Any]) -> set[str]:
    """The names that the newest orders have in these columns."""
    newest_orders = select(name, alias).order_by(col(Order.id).desc()).limit(_MAX_NAMED_ORDERS)
    pairs = session.exec(select(*newest_orders.subquery().c).distinct())
    return {each for pair in pairs for each in pair if each}


def _comes_from(provider: str, name: str) -> ColumnElement[bool]:
    # An expression that no index matches: to read and sort all rows of one provider takes longer
    # than to scan the newest rows of all providers.
    return col(provider).concat("") == name


def newest(session: Session, statement: Any, id_: str, filters: Filters) -> list[Any]:
    """Rows of ``statement``, newest first, up to the filters' limit."""
    return list(session.exec(statement.order_by(col(id_).desc()).limit(filters.limit)).all())
