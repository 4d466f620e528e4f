"""Erases the personal data of one order, or of one phone number and every order that had it."""

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
from receiver.providers.payload import parse_body
from receiver.providers.plain_text import plain_text
from receiver.vault.sealing import Vault
from worker.maintenance.retention import BATCH, NO_BODY, NO_CODE, NO_NUMBER
from worker.queries.events import in_state
from worker.queries.filters import Filters, of_order, phone_digests, phone_spellings
from worker.schema.models import Code, Order, OrderNumber, table_of

# Events in these states may be unparsed: no column links them to an order.
_UNPARSED_STATES: Final = (PENDING, FAILED, QUARANTINED, IGNORED)
# What may be a value in a body that cannot be parsed: a word, or a number with its separators.
_WORDS: Final = re.compile(r"[^\s\"',:;{}\[\]=&<>]+")
_NUMBERS_IN_TEXT: Final = re.compile(r"\+?\d[\d \t()./\-]+\d")
_NO_DIGITS: Final = re.compile(r"[^0-9]")
_CODES = table_of(Code)
_NUMBERS = table_of(OrderNumber)
_ORDERS = table_of(Order)


@dataclass(frozen=True, slots=True)
class ErasureTargets:
    """Ids of the rows to erase: orders, and events that no column links to an order."""

    orders: Sequence[str]
    events: Sequence[str]


def find(database: Database, vault: Vault, filters: Filters) -> ErasureTargets:
    """Find everything about the order or the phone number in ``filters``.

    ``filters.provider`` restricts the search to one provider.

    Raises:
        UnknownKey, BrokenSeal: the body of an unparsed event does not open, so the search cannot
            tell whether it matches.
    """
    with database.reading() as session:
        matches = session.exec(select(Order).where(_matches(session, vault, filters))).all()
        orders = [order for order in matches if filters.provider in {None, order.provider}]
        keys = {(order.provider, order.order_id) for order in orders}
        events = list(_unparsed_events(session, vault, filters, keys))
        return ErasureTargets(sorted(order.id for order in orders), events)


def erase(database: Database, targets: ErasureTargets) -> Counter[str]:
    """Erase the targets; returns how many orders, codes, numbers and bodies were erased.

    The order rows stay, and so do the keys and digests that detect duplicates: an old webhook
    that arrives again restores nothing. A delivery that is in flight completes; a delivery that
    is pending is not sent.
    """
    erased: Counter[str] = Counter()
    for order in targets.orders:
        with database.transaction() as session:
            erased += _erase_order(session, order, database)
    for start in range(0, len(targets.events), BATCH):
        with database.transaction() as session:
            batch = INBOX.c.id.in_(targets.events[start : start + BATCH])
            erased["bodies"] += _write(session, INBOX, NO_BODY, batch, INBOX.c.body.is_not(None))
    return erased


def _matches(session: Session, vault: Vault, filters: Filters) -> Any:
    if filters.phone is None:
        return of_order(Order.provider, Order.order_id, filters)[0]
    digests = phone_digests(session, vault, filters.phone)
    had_number = select(OrderNumber.order_ref).where(col(OrderNumber.phone_digest).in_(digests))
    had_code = (
        select(Order.id)
        .join(
            Code,
            (col(Code.provider) == col(Order.provider))
            & (col(Code.order_id) == col(Order.order_id)),
        )
        .where(col(Code.phone_digest).in_(digests))
    )
    return or_(col(Order.id).in_(had_number), col(Order.id).in_(had_code))


def _erase_order(session: Session, row: str, database: Database) -> Counter[str]:
    order = session.exec(select(Order).where(col(Order.id) == row).with_for_update()).one()
    of_codes = (_CODES.c.provider == order.provider, _CODES.c.order_id == order.order_id)
    of_events = (INBOX.c.provider == order.provider, INBOX.c.order_id == order.order_id)
    numbers = session.connection().execute(delete(_NUMBERS).where(_NUMBERS.c.order_ref == row))
    erased = Counter(
        orders=1,
        codes=_write(session, _CODES, NO_CODE, *of_codes, _CODES.c.code.is_not(None)),
        bodies=_write(session, INBOX, NO_BODY, *of_events, INBOX.c.body.is_not(None)),
        numbers=numbers.rowcount,
    )
    _write(session, _CODES, NO_NUMBER, *of_codes)
    values = {**NO_NUMBER, "forgotten_at": database.now(session)}
    _write(session, _ORDERS, values, _ORDERS.c.id == row)
    return erased


def _write(session: Session, table: Any, values: Any, *where: Any) -> int:
    return session.connection().execute(update(table).where(*where).values(values)).rowcount


def _unparsed_events(
    session: Session, vault: Vault, filters: Filters, orders: Set[tuple[str, str]]
) -> Iterator[str]:
    """Ids of unparsed events whose body contains one of ``orders``, or the order or number."""
    spellings = phone_spellings(session, filters.phone) if filters.phone is not None else ()
    phones = set(map(_digits, spellings))
    for state in _UNPARSED_STATES:
        after = ""
        while True:
            batch = (
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
            events = session.exec(batch).all()
            for event in events:
                session.expunge(event)
                if filters.provider not in {None, event.provider}:
                    continue
                if _mentions(_values_in(vault, event), event.provider, filters, orders, phones):
                    yield event.id
            if not events:
                break
            after = events[-1].id


def _mentions(
    values: Set[str],
    provider: str,
    filters: Filters,
    orders: Set[tuple[str, str]],
    phones: Set[str],
) -> bool:
    if filters.order in values or any((provider, value) in orders for value in values):
        return True
    return not phones.isdisjoint(map(_digits, values))


def _values_in(vault: Vault, event: InboxEvent) -> Set[str]:
    body = inbox.open_body(vault, event) or b"{}"
    try:
        return set(_values(parse_body(body)))
    except MalformedPayload:
        text = body.decode("utf-8", "replace")
        return {*_WORDS.findall(text), *_NUMBERS_IN_TEXT.findall(text)}


def _values(value: Any) -> Iterator[str]:
    """Every scalar in a parsed body, as text."""
    if isinstance(value, dict):
        for inner in value.values():
            yield from _values(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _values(inner)
    else:
        yield str(value)


def _digits(text: str) -> str:
    return _NO_DIGITS.sub("", plain_text(text))
