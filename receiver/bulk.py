"""Many rows in one statement, in the driver's own terms.

SQLAlchemy prepares each value of each row, which costs more than to write it; here the statement
is made once, and the values go to the driver as columns (PostgreSQL) or as rows (SQLite).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from sqlalchemy import Column, Connection, Dialect, Table

from receiver.database import UtcTime

Row = Mapping[str, Any]


def insert_unless_taken(
    connection: Connection, table: Table, rows: Sequence[Row], *, index: tuple[str, ...]
) -> int:
    """Insert rows, each with a value for every column, unless their key ``index`` is taken.

    Returns:
        how many were inserted.
    """
    insert = _insert_of(connection.dialect, table, index)
    columns = [
        [None if row[name] is None else convert(row[name]) for row in rows]
        if convert
        else [row[name] for row in rows]
        for name, convert in insert.columns
    ]
    values: Any = tuple(columns) if insert.by_columns else list(zip(*columns, strict=True))
    return connection.exec_driver_sql(insert.sql, values).rowcount


@dataclass(frozen=True, slots=True)
class _Insert:
    """A statement, and its columns, each with what its values need before the driver."""

    sql: str
    by_columns: bool
    columns: list[tuple[str, Callable[[Any], Any] | None]]


@cache
def _insert_of(dialect: Dialect, table: Table, index: tuple[str, ...]) -> _Insert:
    by_columns = dialect.name == "postgresql"
    names = ", ".join(column.name for column in table.columns)
    if by_columns:
        # Binary (%b), so that the driver escapes nothing.
        arrays = (f"%b::{column.type.compile(dialect)}[]" for column in table.columns)
        source = f"SELECT * FROM unnest({', '.join(arrays)})"  # noqa: S608 - our own words
    else:
        source = f"VALUES ({', '.join('?' * len(table.columns))})"
    sql = f"INSERT INTO {table.name} ({names}) {source} ON CONFLICT ({', '.join(index)}) DO NOTHING"
    # PostgreSQL's driver takes every value as it is.
    converts = [None if by_columns else _bind(column, dialect) for column in table.columns]
    return _Insert(sql, by_columns, [*zip((c.name for c in table.columns), converts, strict=True)])


def _bind(column: Column[Any], dialect: Dialect) -> Callable[[Any], Any] | None:
    """What the driver wants instead of a value of ours; None where it takes it as it is."""
    kind = column.type
    if isinstance(kind, UtcTime):
        return lambda value: kind.process_bind_param(value, dialect)
    return None
