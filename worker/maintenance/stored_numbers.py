"""Brings the phone numbers that older versions stored to their normal form, and their digests.

Older versions stored a number as the provider wrote it, so a search in another spelling did not
find it. The pass reads each table once, in the order of ids and in small transactions, each of
which records how far it got: a killed pass continues there, and of several at once each takes the
next rows. Repeating it changes nothing.

An older version that still runs writes such rows after the pass. So later passes read the rows that
were added since the last one: those of ``codecatch migrate`` and ``up`` always, those of the
workers for :data:`OVERLAP` after the first pass.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from typing import Any, Final

import structlog
from sqlalchemy import Row, Table, delete, select, update
from sqlmodel import Session

from receiver.database import bulk
from receiver.database.engine import Database, insert_once, persist
from receiver.providers.phone_numbers import normal_number
from receiver.vault.sealing import BrokenSeal, UnknownKey, Vault
from worker.orders import numbers
from worker.queries.filters import first_id
from worker.schema.models import Code, Order, OrderNumber, Rewrite, table_of

BATCH: Final = 200
# How long after the first pass the workers look for what an older version wrote meanwhile.
OVERLAP: Final = timedelta(days=7)
_INTERVAL: Final = timedelta(minutes=10)
# A row may be committed after a row with a higher id, and hosts' clocks differ.
_WINDOW: Final = timedelta(minutes=10)
# Pause between two batches, in seconds, so that other writers get the database.
_PAUSE: Final = 0.02

_ORDERS = table_of(Order)
_NUMBERS = table_of(OrderNumber)
_CODES = table_of(Code)
_REWRITES = table_of(Rewrite)
_Values = dict[str, Any]
_Batch = Callable[[Session, Vault, str, Counter[str]], str | None]
_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Rewritten:
    """What a pass did; ``finished`` is False if it ran out of time, and the next one continues.

    ``counts`` has the rows that were ``changed``, those that were ``merged`` into another row of
    the same number, and the values that ``ENCRYPTION_KEYS`` do not open (``sealed``).
    """

    finished: bool
    counts: Mapping[str, int]


def rewrite(database: Database, vault: Vault, *, seconds: float | None = None) -> Rewritten:
    """Bring what no pass has read yet to the normal form, for at most ``seconds`` if given."""
    ends = None if seconds is None else time.monotonic() + seconds
    counts: Counter[str] = Counter()
    for table, batch in _BATCHES.items():
        with database.reading() as session:
            started = database.now(session)
        step = _Step(database, vault, table, batch, started)
        while persist(partial(step.run, counts)):
            if ends is not None and time.monotonic() > ends:
                return Rewritten(False, counts)
            time.sleep(_PAUSE)
    if counts:
        _log.info("numbers.rewritten", **counts)
    return Rewritten(True, counts)


def is_due(database: Database) -> bool:
    """Whether a worker should make a pass now."""
    with database.reading() as session:
        now = database.now(session)
        rows = session.connection().execute(select(_REWRITES)).all()
    return len(rows) < len(_BATCHES) or any(
        row.finished_at is None or row.checked_at + _INTERVAL < now < row.finished_at + OVERLAP
        for row in rows
    )


@dataclass(frozen=True, slots=True)
class _Step:
    """One batch of a table at a time, after the place that is recorded."""

    database: Database
    vault: Vault
    table: Table
    batch: _Batch
    started: datetime

    def run(self, counts: Counter[str]) -> bool:
        """Rewrite the next batch; whether there was one."""
        counted: Counter[str] = Counter()
        record = _REWRITES.c.name == self.table.name
        with self.database.transaction() as session:
            insert_once(session, _REWRITES, {"name": self.table.name, "place": ""})
            connection = session.connection()
            # Locked: passes that run at once take turns.
            known = connection.execute(select(_REWRITES).where(record).with_for_update()).one()
            place = self.batch(session, self.vault, known.place, counted)
            values: _Values = {"place": place}
            if place is None:
                values = {
                    "place": first_id(self.started, -_WINDOW),
                    "checked_at": self.started,
                    "finished_at": known.finished_at or self.started,
                }
            connection.execute(update(_REWRITES).where(record).values(values))
        counts.update(+counted)
        return place is not None


def _orders(session: Session, vault: Vault, after: str, counts: Counter[str]) -> str | None:
    """Rewrite the orders of the next numbers; return the last number's id, or None at the end.

    Every number that an order ever had is a row, so this finds each order with a number.
    """
    connection = session.connection()
    page = select(_NUMBERS.c.id, _NUMBERS.c.order_ref).where(_NUMBERS.c.id > after)
    found = connection.execute(page.order_by(_NUMBERS.c.id).limit(BATCH)).all()
    if not found:
        return None
    orders = _lock(session, {row.order_ref for row in found})
    rows = connection.execute(
        select(_NUMBERS)
        .where(_NUMBERS.c.order_ref.in_([order.id for order in orders]))
        .order_by(_NUMBERS.c.since, _NUMBERS.c.id)
    ).all()
    of_order: dict[str, list[Row[Any]]] = {order.id: [] for order in orders}
    for row in rows:
        of_order[row.order_ref].append(row)
    changed_orders: list[_Values] = []
    changed_numbers: list[_Values] = []
    merged: list[str] = []
    for order in orders:
        reader = _Reader(vault, order.country, counts)
        changed_orders += _changes_of_order(order, reader)
        changed, same = _changes_of_numbers(of_order[order.id], reader)
        changed_numbers += changed
        merged += same
    counts["merged"] += len(merged)
    # Before the updates: the deletions free the unique key.
    connection.execute(delete(_NUMBERS).where(_NUMBERS.c.id.in_(merged)))
    bulk.update(connection, _NUMBERS, changed_numbers, keys=("id",))
    bulk.update(connection, _ORDERS, changed_orders, keys=("id",))
    return str(found[-1].id)


def _changes_of_order(order: Row[Any], reader: _Reader) -> list[_Values]:
    read = reader.read(_ORDERS, order)
    alias = order.country_alias
    if alias is None and reader.number is not None and not numbers.is_region(order.country):
        alias = numbers.region_of(reader.number)
    if read is None and alias == order.country_alias:
        return []
    kept = {"id": order.id, "phone_number": order.phone_number, "phone_digest": order.phone_digest}
    return [{**kept, **(read or {}), "country_alias": alias}]


def _changes_of_numbers(
    rows: Sequence[Row[Any]], reader: _Reader
) -> tuple[list[_Values], list[str]]:
    """The new values of one order's numbers, oldest first, and the ids of those that are double."""
    changed: list[_Values] = []
    double: list[str] = []
    known: set[str] = set()
    for row in rows:
        read = reader.read(_NUMBERS, row)
        digest = row.phone_digest if read is None else read["phone_digest"]
        if digest in known:
            double.append(row.id)
        elif read is not None:
            changed.append(read)
        known.add(digest)
    return changed, double


def _codes(session: Session, vault: Vault, after: str, counts: Counter[str]) -> str | None:
    """Rewrite the next codes; return the id of the last one, or None at the end."""
    connection = session.connection()
    of_order = (_ORDERS.c.provider == _CODES.c.provider) & (_ORDERS.c.order_id == _CODES.c.order_id)
    page = (
        select(_CODES.c.id, _ORDERS.c.id.label("order_ref"))
        .select_from(_CODES.outerjoin(_ORDERS, of_order))
        .where(_CODES.c.id > after, _CODES.c.phone_number.is_not(None))
        .order_by(_CODES.c.id)
        .limit(BATCH)
    )
    found = connection.execute(page).all()
    if not found:
        return None
    # Orders before codes, as every other transaction locks them.
    orders = {row.id: row for row in _lock(session, {row.order_ref for row in found})}
    order_of = {row.id: orders.get(row.order_ref) for row in found}
    changes: list[_Values] = []
    for row in connection.execute(select(_CODES).where(_CODES.c.id.in_(list(order_of)))).all():
        order = order_of[row.id]
        country = (order.country if order is not None else None) or row.country
        read = _Reader(vault, country, counts).read(_CODES, row)
        if read is not None:
            changes.append(read)
    # Unless it was erased since it was read.
    bulk.update(connection, _CODES, changes, keys=("id",), where="codes.phone_number IS NOT NULL")
    return str(found[-1].id)


_BATCHES: Final[Mapping[Table, _Batch]] = {_NUMBERS: _orders, _CODES: _codes}


def _lock(session: Session, ids: set[str]) -> Sequence[Row[Any]]:
    """These orders, locked in the sequence in which every transaction locks them."""
    chosen = select(_ORDERS).where(_ORDERS.c.id.in_(sorted(filter(None, ids))))
    ordered = chosen.order_by(_ORDERS.c.provider, _ORDERS.c.order_id)
    return session.connection().execute(ordered.with_for_update()).all()


@dataclass(slots=True)
class _Reader:
    """Reads numbers of orders in ``country``; ``number`` is the one that was read last."""

    vault: Vault
    country: str | None
    counts: Counter[str]
    number: str | None = field(default=None, repr=False)

    def read(self, table: Table, row: Row[Any]) -> _Values | None:
        """The row's id and new values; None if they are right, or the number does not open."""
        context = {"table": table.name, "column": "phone_number", "row": row.id}
        self.number = None
        try:
            written = self.vault.open_text(row.phone_number, **context)
        except (BrokenSeal, UnknownKey):
            self.counts["sealed"] += 1
            return None
        if written is None:
            return None
        self.number = normal_number(written, self.country)
        digest = numbers.digest(self.vault, self.number)
        if (self.number, digest) == (written, row.phone_digest):
            return None
        self.counts["changed"] += 1
        sealed = self.vault.seal(self.number, **context)
        return {"id": row.id, "phone_number": sealed, "phone_digest": digest}
