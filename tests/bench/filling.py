"""A database of many rows, made of few that the system itself has written.

Each genuine row is copied again and again: under ids of its own, in their order, as of another
moment, and with every reference to another row led to that row's copy. A copy's sealed values
cannot be opened, since they are bound to the row they were sealed for, and so the genuine rows
stay the newest: they are what lists show.
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

# Those that are referred to come first.
_MODELS: Sequence[type[SQLModel]] = (Order, OrderNumber, OrderTransition, Code, Delivery)
_TABLES = (INBOX, *(table_of(model) for model in _MODELS))
_IDS = frozenset({"id", "order_ref", "event_id", "number_event_id", "code_id", "message"})
# Retention would begin to purge codes that are older than a day.
_SPAN = timedelta(hours=12)
# So many rows of the inbox are committed together.
_CHUNK = 20_000
# An id is ten characters of its time and sixteen by chance.
_TIME = 10
_COPIES = "CREATE TEMPORARY TABLE copies (number INTEGER, time TEXT, word TEXT, earlier BIGINT)"
_INSERT_COPY = "INSERT INTO copies VALUES ({0}, {0}, {0}, {0})"


def fill(database: BenchDatabase, rows: int) -> None:
    """Copy all rows until the inbox has ``rows`` more; nobody else may use it meanwhile.

    Raises:
        ValueError: the database has no event to copy.
    """
    genuine = database.count(INBOX.name)
    if not genuine:
        raise ValueError("there is nothing to copy")
    with closing(database.connect()) as connection:
        _hurry(connection, sqlite=database.is_sqlite)
        _prepare(connection, _copies(-(-rows // genuine)), "?" if database.is_sqlite else "%s")
        step = max(1, _CHUNK // genuine)
        for first in range(0, rows // genuine + 1, step):
            for table in _TABLES:
                connection.execute(_copy(table, first, first + step, sqlite=database.is_sqlite))
            connection.commit()
    tend(database)


def tend(database: BenchDatabase) -> None:
    """Do at once what a database does by itself in time, and count only the rows after these."""
    with closing(database.connect()) as connection:
        if database.is_sqlite:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        else:
            connection.autocommit = True
            connection.execute("VACUUM (ANALYZE)")  # as autovacuum would, within a minute
            connection.execute("CHECKPOINT")
    for table in _TABLES:
        database.floors[table.name] = database.value(f"SELECT max(id) FROM {table.name}")


def _hurry(connection: Any, *, sqlite: bool) -> None:
    """Nothing that is filled in needs to survive, and each reference has its row."""
    if sqlite:
        connection.execute("PRAGMA synchronous = OFF")
    else:
        connection.execute("SET synchronous_commit = off")
        connection.execute("SET session_replication_role = replica")


def _copies(many: int) -> list[tuple[int, str, str, int]]:
    """Of each set of copies its number, the time of its ids, its word, and how much earlier.

    The last is in microseconds; sets come in the order of their times.
    """
    now = ULID().timestamp
    found = []
    for number in range(many):
        earlier = _SPAN * (many - number) / many
        time = str(ULID.from_timestamp(now - earlier.total_seconds()))[:_TIME]
        found.append((number, time, f"{number:08d}", earlier // timedelta(microseconds=1)))
    return found


def _prepare(connection: Any, copies: Sequence[tuple[int, str, str, int]], mark: str) -> None:
    """Put aside what is copied: a table cannot be read while the copies go into it."""
    connection.execute(_COPIES)
    connection.cursor().executemany(_INSERT_COPY.format(mark), copies)
    for table in _TABLES:
        connection.execute(
            f"CREATE TEMPORARY TABLE genuine_{table.name} AS SELECT * FROM {table.name}"
        )
    connection.commit()


def _copy(table: Table, first: int, end: int, *, sqlite: bool) -> str:
    names = ", ".join(column.name for column in table.columns)
    values = ", ".join(_value(table, column, sqlite=sqlite) for column in table.columns)
    return (
        f"INSERT INTO {table.name} ({names}) SELECT {values} "
        f"FROM copies JOIN genuine_{table.name} AS own ON copies.number >= {first} "
        f"AND copies.number < {end} ORDER BY copies.number, own.id"
    )


def _value(table: Table, column: Column[Any], *, sqlite: bool) -> str:
    """What stands in a column of a copy, of what stands there in the row that is copied."""
    own = f"own.{column.name}"
    if column.name in _IDS:
        return f"copies.time || substr({own}, {_TIME + 1})"
    if column.name == "order_id":
        return _worded(own)
    if column.name == "phone_digest":
        return _worded(own)  # no number has a million orders
    if column.name == "key":
        return _key(table, own)
    if isinstance(column.type, UtcTime):
        span = "copies.earlier" if sqlite else "copies.earlier * INTERVAL '1 microsecond'"
        return f"{own} - {span}"
    return own


def _worded(own: str) -> str:
    """As long as before, with the word of the copy in front."""
    return f"copies.word || substr({own}, 9)"


def _key(table: Table, own: str) -> str:
    """An event's key gets an id such as providers give; a delivery's ends with an id of ours."""
    if table is INBOX:
        return "'evt_' || copies.time || substr(own.id, 11)"
    return (
        f"substr({own}, 1, length({own}) - 26) || copies.time || substr({own}, length({own}) - 15)"
    )
