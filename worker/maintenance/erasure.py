"""Forgetting an order, or a number and every order that had it, at once: somebody asked for it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import delete, update
from sqlmodel import Session, col, or_, select

from receiver.database.engine import Database
from receiver.errors import MalformedPayload
from receiver.inbox import store as inbox
from receiver.inbox.store import FAILED, IGNORED, INBOX, PENDING, QUARANTINED, InboxEvent
from receiver.providers.strict_json import parse_object
from receiver.vault.sealing import Vault
from worker.maintenance.retention import BATCH, NO_BODY, NO_CODE, NO_NUMBER
from worker.queries.events import in_state
from worker.queries.filters import Filters, of_order, phone_digests
from worker.schema.models import Code, Order, OrderNumber, table_of

# Events in these states may not have been read, so that nothing says which order they are about.
_UNREAD: Final = (PENDING, FAILED, QUARANTINED, IGNORED)
_CODES = table_of(Code)
_NUMBERS = table_of(OrderNumber)
_ORDERS = table_of(Order)


@dataclass(frozen=True, slots=True)
class Found:
    """What somebody asked to be forgotten, by ids: orders, and events that belong to none."""

    orders: Sequence[str]
    events: Sequence[str]


def find(database: Database, vault: Vault, filters: Filters) -> Found:
    """Everything about the order, or the number, in ``filters`` (of one provider, if it names one).

    Raises:
        UnknownKey, BrokenSeal: an event that nobody could read cannot be opened, so that it is
            not known whom it is about.
    """
    with database.reading() as session:
        found = session.exec(select(Order).where(_is_meant(vault, filters))).all()
        orders = [order for order in found if filters.provider in {None, order.provider}]
        names = {(order.provider, order.order_id) for order in orders}
        events = list(_unread(session, vault, filters, names))
        return Found(sorted(order.id for order in orders), events)


def forget(database: Database, found: Found) -> Counter[str]:
    """Take all of it out; how many codes, numbers and bodies that were.

    The orders themselves stay, and what tells a repetition from news: an old webhook that comes
    again brings nothing back. What is being told in this moment is told; what waits to be told
    is not.
    """
    taken: Counter[str] = Counter()
    for order in found.orders:
        with database.transaction() as session:
            taken += _forget_order(session, order, database)
    for start in range(0, len(found.events), BATCH):
        with database.transaction() as session:
            some = INBOX.c.id.in_(found.events[start : start + BATCH])
            taken["bodies"] += _write(session, INBOX, NO_BODY, some, INBOX.c.body.is_not(None))
    return taken


def _is_meant(vault: Vault, filters: Filters) -> Any:
    if filters.phone is None:
        return of_order(Order.provider, Order.order_id, filters)[0]
    digests = phone_digests(vault, filters.phone)
    had = select(OrderNumber.order_ref).where(col(OrderNumber.phone_digest).in_(digests))
    reported = (
        select(Order.id)
        .join(
            Code,
            (col(Code.provider) == col(Order.provider))
            & (col(Code.order_id) == col(Order.order_id)),
        )
        .where(col(Code.phone_digest).in_(digests))
    )
    return or_(col(Order.id).in_(had), col(Order.id).in_(reported))


def _forget_order(session: Session, row: str, database: Database) -> Counter[str]:
    order = session.exec(select(Order).where(col(Order.id) == row).with_for_update()).one()
    its_codes = (_CODES.c.provider == order.provider, _CODES.c.order_id == order.order_id)
    its_events = (INBOX.c.provider == order.provider, INBOX.c.order_id == order.order_id)
    numbers = session.connection().execute(delete(_NUMBERS).where(_NUMBERS.c.order_ref == row))
    taken = Counter(
        orders=1,
        codes=_write(session, _CODES, NO_CODE, *its_codes, _CODES.c.code.is_not(None)),
        bodies=_write(session, INBOX, NO_BODY, *its_events, INBOX.c.body.is_not(None)),
        numbers=numbers.rowcount,
    )
    _write(session, _CODES, NO_NUMBER, *its_codes)
    forgotten = {**NO_NUMBER, "forgotten_at": database.now(session)}
    _write(session, _ORDERS, forgotten, _ORDERS.c.id == row)
    return taken


def _write(session: Session, table: Any, values: Any, *where: Any) -> int:
    return session.connection().execute(update(table).where(*where).values(values)).rowcount


def _unread(
    session: Session, vault: Vault, filters: Filters, orders: Set[tuple[str, str]]
) -> Iterator[str]:
    """The events that belong to no order and yet name one of ``orders``, or what is looked for."""
    for state in _UNREAD:
        after = ""
        while True:
            some = (
                select(InboxEvent)
                .where(
                    *in_state(state),
                    col(InboxEvent.id) > after,
                    col(InboxEvent.order_id).is_(None),
                    col(InboxEvent.body).is_not(None),
                )
                .order_by(col(InboxEvent.id))
                .limit(BATCH)
            )
            events = session.exec(some).all()
            for event in events:
                session.expunge(event)
                if filters.provider not in {None, event.provider}:
                    continue
                if _names(_values_in(vault, event), event.provider, filters, orders):
                    yield event.id
            if not events:
                break
            after = events[-1].id


def _names(values: Set[str], provider: str, filters: Filters, orders: Set[tuple[str, str]]) -> bool:
    if filters.order in values or any((provider, value) in orders for value in values):
        return True
    return filters.phone is not None and _digits(filters.phone) in set(map(_digits, values))


def _values_in(vault: Vault, event: InboxEvent) -> Set[str]:
    try:
        return set(_values(parse_object(inbox.open_body(vault, event) or b"{}")))
    except MalformedPayload:
        return set()


def _values(value: Any) -> Iterator[str]:
    """Every value in a body, as text."""
    if isinstance(value, dict):
        for inner in value.values():
            yield from _values(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _values(inner)
    else:
        yield str(value)


def _digits(text: str) -> str:
    return re.sub(r"[\s().+\-]", "", text)
