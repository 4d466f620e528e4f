"""Many rows in one statement, in the driver's own terms.

SQLAlchemy prepares each value of each row, which costs more than to write it; here the statement
is made once, and a value that all rows share goes to the driver once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache, lru_cache
from itertools import chain
from typing import Any

from sqlalchemy import Column, Connection, Dialect, Table

from receiver.database import UtcTime

Row = Mapping[str, Any]
# Of one statement; for each number of rows the driver keeps one of its own, prepared.
MOST_ROWS = 128


def insert_unless_taken(
    connection: Connection, table: Table, rows: Sequence[Row], *, index: tuple[str, ...]
) -> int:
    """Insert rows, each with a value for every column, unless their key ``index`` is taken.

    Up to :data:`MOST_ROWS` go in one statement.

    Returns:
        how many were inserted.
    """
    insert = _insert_columns if connection.dialect.name == "postgresql" else _insert_rows
    return sum(
        insert(connection, table, rows[start : start + MOST_ROWS], index)
        for start in range(0, len(rows), MOST_ROWS)
    )


def _insert_columns(
    connection: Connection, table: Table, rows: Sequence[Row], index: tuple[str, ...]
) -> int:
    # The driver goes through arrays value by value, which is the most of it.
    once, each = _parted(table, rows)
    statement = _columns_statement(connection.dialect, table, index, tuple(once), tuple(each))
    return connection.exec_driver_sql(statement, (*once.values(), *each.values())).rowcount


def _insert_rows(
    connection: Connection, table: Table, rows: Sequence[Row], index: tuple[str, ...]
) -> int:
    # Row by row would let go of the interpreter's lock for each of them, and wait to have it back.
    once, each = _parted(table, rows)
    for name, convert in _converts(connection.dialect, table).items():
        if name in once:
            once[name] = convert(once[name])
        else:
            each[name] = [convert(value) for value in each[name]]
    statement = _rows_statement(table, index, tuple(once), tuple(each), len(rows))
    values = (*once.values(), *chain.from_iterable(zip(*each.values(), strict=True)))
    return connection.exec_driver_sql(statement, values).rowcount


def _parted(table: Table, rows: Sequence[Row]) -> tuple[dict[str, Any], dict[str, list[Any]]]:
    """The values that all rows share, and the columns of which each row has its own."""
    once: dict[str, Any] = {}
    each: dict[str, list[Any]] = {}
    for column in table.columns:
        values = [row[column.name] for row in rows]
        if column.primary_key or values.count(values[0]) < len(values):
            each[column.name] = values
        else:
            once[column.name] = values[0]
    return once, each


@lru_cache(maxsize=64)
def _columns_statement(
    dialect: Dialect,
    table: Table,
    index: tuple[str, ...],
    once: tuple[str, ...],
    each: tuple[str, ...],
) -> str:
    # Binary (%b), so that the driver escapes nothing; it takes every value as it is.
    kinds = {column.name: column.type.compile(dialect) for column in table.columns}
    shared = [f"%b::{kinds[name]}" for name in once]
    arrays = ", ".join(f"%b::{kinds[name]}[]" for name in each)
    return _statement(table, index, (*once, *each), shared, f"unnest({arrays})")


@lru_cache(maxsize=2 * MOST_ROWS)
def _rows_statement(
    table: Table, index: tuple[str, ...], once: tuple[str, ...], each: tuple[str, ...], size: int
) -> str:
    row = f"({', '.join('?' * len(each))})"
    source = f"(VALUES {', '.join([row] * size)})"
    return _statement(table, index, (*once, *each), ["?"] * len(once), source)


def _statement(
    table: Table, index: Sequence[str], names: Sequence[str], shared: Sequence[str], source: str
) -> str:
    # WHERE: else SQLite takes the ON that follows for a join's.
    return (
        f"INSERT INTO {table.name} ({', '.join(names)}) "  # noqa: S608 - our own words
        f"SELECT {', '.join((*shared, 'each.*'))} FROM {source} AS each WHERE true "
        f"ON CONFLICT ({', '.join(index)}) DO NOTHING"
    )


@cache
def _converts(dialect: Dialect, table: Table) -> Mapping[str, Callable[[Any], Any]]:
    """What makes the driver's value of ours, for the columns where it is another."""
    return {
        column.name: _bind(column, dialect)
        for column in table.columns
        if isinstance(column.type, UtcTime)
    }


def _bind(column: Column[Any], dialect: Dialect) -> Callable[[Any], Any]:
    kind: UtcTime = column.type  # type: ignore[assignment]
    return lambda value: kind.process_bind_param(value, dialect)
