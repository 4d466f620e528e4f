"""Many rows in one statement, in the driver's own terms.

SQLAlchemy prepares each value of each row, which costs more than to write it; here the statement
is made once, and a value that all rows share goes to the driver once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from itertools import chain
from typing import Any

from sqlalchemy import Column, Connection, CursorResult, Dialect, Table

from receiver.database.engine import UtcTime

Row = Mapping[str, Any]
# Of one statement; for each number of rows the driver keeps one of its own, prepared.
MOST_ROWS = 128


def insert_unless_taken(
    connection: Connection, table: Table, rows: Sequence[Row], *, index: tuple[str, ...]
) -> int:
    """Insert rows, all with the same columns, unless their key ``index`` is taken.

    Up to :data:`MOST_ROWS` go in one statement.

    Returns:
        how many were inserted.
    """
    verb = _Insert(table, index)
    return sum(_run(connection, verb, part).rowcount for part in _parts(rows))


def insert_new(connection: Connection, table: Table, rows: Sequence[Row]) -> set[str]:
    """Insert those of ``rows``, all with the same columns, whose unique keys are free; their ids.

    Two transactions that insert equal keys in another order deadlock on PostgreSQL: whoever may
    meet another sorts the rows.
    """
    verb = _Insert(table, (), " RETURNING id")
    # All at once: one by one, each row costs as much again.
    return {id_ for part in _parts(rows) for id_ in _run(connection, verb, part).scalars().all()}


def update(
    connection: Connection,
    table: Table,
    rows: Sequence[Row],
    *,
    keys: tuple[str, ...],
    where: str = "true",
) -> int:
    """Write to each row that has the ``keys`` of one of ``rows`` what else that one says.

    Only where ``where`` holds, a condition in SQL; how many were written.
    """
    verb = _Update(table, keys, where)
    return sum(_run(connection, verb, part).rowcount for part in _parts(rows))


@dataclass(frozen=True, slots=True)
class _Insert:
    """Adds a row for each row of a source, whose columns are named after the table's."""

    table: Table
    index: tuple[str, ...]
    returning: str = ""

    @property
    def own(self) -> tuple[str, ...]:
        """Columns of which each row is taken to have a value of its own."""
        return ("id",)

    def spell(self, shared: Mapping[str, str], source: str, names: Mapping[str, str]) -> str:
        # WHERE: else SQLite takes the ON that follows for a join's.
        target = f"({', '.join(self.index)}) " if self.index else ""
        return (
            f"INSERT INTO {self.table.name} ({', '.join((*shared, *names))}) "  # noqa: S608 - our own words
            f"SELECT {', '.join((*shared.values(), *names.values()))} FROM {source} WHERE true "
            f"ON CONFLICT {target}DO NOTHING{self.returning}"
        )


@dataclass(frozen=True, slots=True)
class _Update:
    """Changes the row that each row of a source has the keys of."""

    table: Table
    own: tuple[str, ...]
    where: str

    def spell(self, shared: Mapping[str, str], source: str, names: Mapping[str, str]) -> str:
        values = {**shared, **names}
        written = ", ".join(f"{n} = {v}" for n, v in values.items() if n not in self.own)
        found = " AND ".join(f"{self.table.name}.{key} = {names[key]}" for key in self.own)
        return (
            f"UPDATE {self.table.name} SET {written} FROM {source} "  # noqa: S608 - our own words
            f"WHERE {found} AND {self.where}"
        )


_Verb = _Insert | _Update


def _parts(rows: Sequence[Row]) -> Iterator[Sequence[Row]]:
    return (rows[start : start + MOST_ROWS] for start in range(0, len(rows), MOST_ROWS))


def _run(connection: Connection, verb: _Verb, rows: Sequence[Row]) -> CursorResult[Any]:
    run = _run_columns if connection.dialect.name == "postgresql" else _run_rows
    return run(connection, verb, rows)


def _run_columns(connection: Connection, verb: _Verb, rows: Sequence[Row]) -> CursorResult[Any]:
    # The driver goes through arrays value by value, which is the most of it.
    once, each = _parted(verb, rows)
    statement = _columns_statement(connection.dialect, verb, tuple(once), tuple(each))
    return connection.exec_driver_sql(statement, (*once.values(), *each.values()))


def _run_rows(connection: Connection, verb: _Verb, rows: Sequence[Row]) -> CursorResult[Any]:
    # Row by row would let go of the interpreter's lock for each of them, and wait to have it back.
    once, each = _parted(verb, rows)
    for name, convert in _converts(connection.dialect, verb.table).items():
        if name in once:
            once[name] = convert(once[name])
        elif name in each:
            each[name] = [convert(value) for value in each[name]]
    statement = _rows_statement(verb, tuple(once), tuple(each), len(rows))
    values = (*once.values(), *chain.from_iterable(zip(*each.values(), strict=True)))
    return connection.exec_driver_sql(statement, values)


def _parted(verb: _Verb, rows: Sequence[Row]) -> tuple[dict[str, Any], dict[str, list[Any]]]:
    """The values that all rows share, and the columns of which each row has its own."""
    once: dict[str, Any] = {}
    each: dict[str, list[Any]] = {}
    for name in rows[0]:
        values = [row[name] for row in rows]
        if name in verb.own or values.count(values[0]) < len(values):
            each[name] = values
        else:
            once[name] = values[0]
    return once, each


@lru_cache(maxsize=64)
def _columns_statement(
    dialect: Dialect, verb: _Verb, once: tuple[str, ...], each: tuple[str, ...]
) -> str:
    # Binary (%b), so that the driver escapes nothing; it takes every value as it is.
    kinds = {column.name: column.type.compile(dialect) for column in verb.table.columns}
    shared = {name: f"%b::{kinds[name]}" for name in once}
    arrays = ", ".join(f"%b::{kinds[name]}[]" for name in each)
    source = f"unnest({arrays}) AS each({', '.join(each)})"
    return verb.spell(shared, source, {name: f"each.{name}" for name in each})


@lru_cache(maxsize=4 * MOST_ROWS)
def _rows_statement(verb: _Verb, once: tuple[str, ...], each: tuple[str, ...], size: int) -> str:
    row = f"({', '.join('?' * len(each))})"
    source = f"(VALUES {', '.join([row] * size)}) AS each"
    names = {name: f"each.column{number}" for number, name in enumerate(each, 1)}
    return verb.spell(dict.fromkeys(once, "?"), source, names)


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
