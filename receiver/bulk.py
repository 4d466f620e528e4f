"""Many rows in one statement, in the driver's own terms.

SQLAlchemy prepares each value of each row, which costs more than to write it; here the statement
is made once, and the values go to the driver as columns (PostgreSQL) or as rows (SQLite).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
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
    if connection.dialect.name == "postgresql":
        return _insert_columns(connection, table, rows, index)
    return _insert_rows(connection, table, rows, index)


def _insert_columns(
    connection: Connection, table: Table, rows: Sequence[Row], index: tuple[str, ...]
) -> int:
    # Binary (%b), so that the driver escapes nothing; it takes every value as it is.
    columns = tuple([row[column.name] for row in rows] for column in table.columns)
    statement = _columns_statement(connection.dialect, table, index)
    return connection.exec_driver_sql(statement, columns).rowcount


def _insert_rows(
    connection: Connection, table: Table, rows: Sequence[Row], index: tuple[str, ...]
) -> int:
    # Row by row would let go of the interpreter's lock for each of them, and wait to have it back.
    inserted = 0
    converts = _converts(connection.dialect, table)
    for start in range(0, len(rows), MOST_ROWS):
        some = rows[start : start + MOST_ROWS]
        values = tuple(
            convert(row[name]) if convert and row[name] is not None else row[name]
            for row in some
            for name, convert in converts
        )
        statement = _rows_statement(table, index, len(some))
        inserted += connection.exec_driver_sql(statement, values).rowcount
    return inserted


@cache
def _columns_statement(dialect: Dialect, table: Table, index: tuple[str, ...]) -> str:
    arrays = (f"%b::{column.type.compile(dialect)}[]" for column in table.columns)
    return _statement(table, f"SELECT * FROM unnest({', '.join(arrays)})", index)  # noqa: S608 - our own words


@cache
def _rows_statement(table: Table, index: tuple[str, ...], size: int) -> str:
    row = f"({', '.join('?' * len(table.columns))})"
    return _statement(table, f"VALUES {', '.join([row] * size)}", index)


def _statement(table: Table, source: str, index: tuple[str, ...]) -> str:
    names = ", ".join(column.name for column in table.columns)
    taken = ", ".join(index)
    return f"INSERT INTO {table.name} ({names}) {source} ON CONFLICT ({taken}) DO NOTHING"


@cache
def _converts(dialect: Dialect, table: Table) -> list[tuple[str, Callable[[Any], Any] | None]]:
    return [(column.name, _bind(column, dialect)) for column in table.columns]


def _bind(column: Column[Any], dialect: Dialect) -> Callable[[Any], Any] | None:
    """What the driver wants instead of a value of ours; None where it takes it as it is."""
    kind = column.type
    if isinstance(kind, UtcTime):
        return lambda value: kind.process_bind_param(value, dialect)
    return None
