"""Fills a database with copies of a few rows that codecatch itself has written.

Each copy of a set of rows has new ids in the same order, earlier times, and references to the
copies in the same set. The sealed values of a copy cannot be opened, since they are bound to their
original row. Therefore the original rows stay the newest, which are the ones that lists show.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from datetime import timedelta
from typing import Any

from sqlalchemy import Column, Table
from sqlmodel import SQLModel
from ulid import ULID

from receiver.database.engine import UtcTime
from receiver.inbox.store import INBOX
from tests.bench.databases import BenchDatabase
from worker.schema.models import Code, Delivery, Order, OrderNumber, OrderTransition, table_of

# Referenced tables come first.
_MODELS: Sequence[type[SQLModel]] = (Order, OrderNumber, OrderTransition, Code, Delivery)
_TABLES = (INBOX, *(table_of(model) for model in _MODELS))
_IDS = frozenset({"id", "order_ref", "event_id", "number_event_id", "code_id", "message"})
# Well below the age of a day at which retention purges codes.
_SPAN = timedelta(hours=12)
# Inbox rows in one transaction.
_CHUNK = 20_000
# A ULID is ten characters of time and sixteen random ones.
_TIME_LENGTH = 10
_COPIES = "CREATE TEMPORARY TABLE copies (number INTEGER, time TEXT, word TEXT, earlier BIGINT)"
_INSERT_COPY = "INSERT INTO copies VALUES ({0}, {0}, {0}, {0})"


def fill(database: BenchDatabase, rows: int) -> None:
    """Copy all rows until the inbox has ``rows`` more; nothing else may use the database.

    Raises:
        ValueError: the database has no event to copy.
    """
    original = database.count(INBOX.name)
    if not original:
        raise ValueError("the database has no event to copy")
    with closing(database.connect()) as connection:
        _disable_durability(connection, sqlite=database.is_sqlite)
        _prepare(connection, _copies(-(-rows // original)), "?" if database.is_sqlite else "%s")
        step = max(1, _CHUNK // original)
        for first in range(0, rows // original + 1, step):
            for table in _TABLES:
                connection.execute(_copy(table, first, first + step, sqlite=database.is_sqlite))
            connection.commit()
    run_maintenance(database)


def run_maintenance(database: BenchDatabase) -> None:
    """Vacuum and checkpoint now, and exclude the present rows from counts."""
    with closing(database.connect()) as connection:
        if database.is_sqlite:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        else:
            connection.autocommit = True
            connection.execute("VACUUM (ANALYZE)")  # as autovacuum would, within a minute
            connection.execute("CHECKPOINT")
    for table in _TABLES:
        database.floors[table.name] = database.value(f"SELECT max(id) FROM {table.name}")


def _disable_durability(connection: Any, *, sqlite: bool) -> None:
    """Write without flushes and foreign keys: the copies need not survive a crash."""
    if sqlite:
        connection.execute("PRAGMA synchronous = OFF")
    else:
        connection.execute("SET synchronous_commit = off")
        connection.execute("SET session_replication_role = replica")


def _copies(many: int) -> list[tuple[int, str, str, int]]:
    """For each set of copies: number, ULID time, text prefix, and age in microseconds.

    The sets are sorted by time.
    """
    now = ULID().timestamp
    sets = []
    for number in range(many):
        earlier = _SPAN * (many - number) / many
        time = str(ULID.from_timestamp(now - earlier.total_seconds()))[:_TIME_LENGTH]
        sets.append((number, time, f"{number:08d}", earlier // timedelta(microseconds=1)))
    return sets


def _prepare(connection: Any, copies: Sequence[tuple[int, str, str, int]], mark: str) -> None:
    """Save the original rows: a table cannot be read while copies are inserted into it."""
    connection.execute(_COPIES)
    connection.cursor().executemany(_INSERT_COPY.format(mark), copies)
    for table in _TABLES:
        connection.execute(
            f"CREATE TEMPORARY TABLE original_{table.name} AS SELECT * FROM {table.name}"
        )
    connection.commit()


def _copy(table: Table, first: int, end: int, *, sqlite: bool) -> str:
    names = ", ".join(column.name for column in table.columns)
    values = ", ".join(_value(table, column, sqlite=sqlite) for column in table.columns)
    return (
        f"INSERT INTO {table.name} ({names}) SELECT {values} "
        f"FROM copies JOIN original_{table.name} AS own ON copies.number >= {first} "
        f"AND copies.number < {end} ORDER BY copies.number, own.id"
    )


def _value(table: Table, column: Column[Any], *, sqlite: bool) -> str:
    """The SQL expression for a column of a copy."""
    own = f"own.{column.name}"
    if column.name in _IDS:
        return f"copies.time || substr({own}, {_TIME_LENGTH + 1})"
    if column.name == "order_id":
        return _prefixed(own)
    if column.name == "phone_digest":
        return _prefixed(own)  # a million orders must not share one number
    if column.name == "key":
        return _key(table, own)
    if isinstance(column.type, UtcTime):
        span = "copies.earlier" if sqlite else "copies.earlier * INTERVAL '1 microsecond'"
        return f"{own} - {span}"
    return own


def _prefixed(own: str) -> str:
    """The same length, with the copy's prefix in front."""
    return f"copies.word || substr({own}, 9)"


def _key(table: Table, own: str) -> str:
    """An event's key is a provider's event id; a delivery's key ends with one of our ids."""
    if table is INBOX:
        return "'evt_' || copies.time || substr(own.id, 11)"
    return (
        f"substr({own}, 1, length({own}) - 26) || copies.time || substr({own}, length({own}) - 15)"
    )
