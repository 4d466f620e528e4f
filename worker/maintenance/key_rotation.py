"""Counts stored values by encryption key, and re-encrypts them with the first key, online.

An update replaces a value only if the value is unchanged since it was read, so a concurrent purge
or change wins. No progress is stored: the values that the first key does not seal are what is
left, so a rotation resumes after a kill.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

from sqlalchemy import (
    Column,
    ColumnElement,
    LargeBinary,
    Table,
    bindparam,
    func,
    select,
    text,
    update,
)
from sqlmodel import Session

from receiver.database.engine import Database, persist
from receiver.errors import ConfigurationError
from receiver.failpoints import reach
from receiver.vault import index_key
from receiver.vault.sealing import KEY_ID_AT, BrokenSeal, Sealer, key_id
from worker.schema import migrate as schema

BATCH: Final = 500
# Pause between two batches, in seconds, so that other writers get the database.
_PAUSE: Final = 0.02
_SPOOL: Final = "spool"
# A scan of a whole table takes longer than the statement timeout of the webhook path.
_NO_STATEMENT_TIMEOUT: Final = text("SET LOCAL statement_timeout = 0")


@dataclass(frozen=True, slots=True)
class KeyUsage:
    """How many values of one column are sealed with one key; ``key`` is the key id in hex."""

    key: str
    table: str
    column: str
    values: int


@dataclass(frozen=True, slots=True)
class Step:
    """Progress of the rotation of one column; ``broken`` lists ids of rows that do not open."""

    table: str
    column: str
    done: int
    total: int
    broken: Sequence[str] = ()


def count(database: Database, spooled: Mapping[bytes, int] | None = None) -> list[KeyUsage]:
    """Count values by key, table and column, in the database.

    ``spooled`` has the number of events in this host's spool by the id of their key.
    """
    usages = []
    for table, column in _sealed_columns():
        sealed_by = _key_id(column)
        with _reading(database) as session:
            grouped = select(sealed_by, func.count()).where(column.is_not(None)).group_by(sealed_by)
            rows = session.connection().execute(grouped).all()
        # SQLite returns NULL for a substring of an empty value; no sealed value is empty.
        usages += [
            KeyUsage((key or b"").hex(), table.name, column.name, number) for key, number in rows
        ]
    usages += [
        KeyUsage(key.hex(), _SPOOL, "body", number) for key, number in (spooled or {}).items()
    ]
    return sorted(usages, key=lambda usage: (usage.table, usage.column, usage.key))


def rotate(
    database: Database, keys: Sequence[bytes], spool_dir: Path | None = None
) -> Iterator[Step]:
    """Re-encrypt with the first key what the other keys sealed; yields after every batch.

    A value that does not open, or whose key is not in ``keys``, stays unchanged.
    """
    old_key_ids = sorted({key_id(key) for key in keys} - {key_id(keys[0])})
    totals: dict[tuple[str, str], int] = {}
    for usage in count(database):
        if bytes.fromhex(usage.key) in old_key_ids:
            column_key = usage.table, usage.column
            totals[column_key] = totals.get(column_key, 0) + usage.values
    sealer = Sealer(keys)
    for table, column in _sealed_columns():
        total = totals.get((table.name, column.name), 0)
        if total:
            yield from _Rotation(database, sealer, table, column, old_key_ids, total).run()
    if spool_dir is not None and spool_dir.is_dir():
        try:
            index_key.save_copy(spool_dir, index_key.sealed(database))
        except OSError as error:
            raise ConfigurationError(
                f"SPOOL_DIR: must be a writable directory ({error.strerror})"
            ) from None
    database.truncate_wal(timeout=1.0)


def _sealed_columns() -> Iterator[tuple[Table, Column[Any]]]:
    """Every column with sealed values: all columns of bytes are sealed."""
    for table in schema.METADATA.sorted_tables:
        for column in table.columns:
            if isinstance(column.type, LargeBinary):
                yield table, column


def _key_id(column: Column[Any]) -> ColumnElement[bytes]:
    length = KEY_ID_AT.stop - KEY_ID_AT.start
    return func.substr(column, KEY_ID_AT.start + 1, length, type_=LargeBinary)


@contextmanager
def _reading(database: Database) -> Iterator[Session]:
    with database.reading() as session:
        if database.is_postgresql:
            session.connection().execute(_NO_STATEMENT_TIMEOUT)
        yield session


@dataclass(frozen=True, slots=True)
class _Rotation:
    """Rotates one column: the ``total`` values that the keys in ``old_key_ids`` sealed."""

    database: Database
    sealer: Sealer
    table: Table
    column: Column[Any]
    old_key_ids: Sequence[bytes]
    total: int

    def run(self) -> Iterator[Step]:
        done, before = 0, -1
        while before < done:  # rows that were locked in the last pass may be free now
            before, after = done, ""
            while rows := self._next(after):
                after = max(rows)
                resealed, broken = self._reseal(rows)
                done += persist(partial(self._replace, rows, resealed))
                progress = min(done, self.total)
                yield Step(self.table.name, self.column.name, progress, self.total, broken)
                reach("rotation.after_batch")
                time.sleep(_PAUSE)

    def _next(self, after: str) -> Mapping[str, bytes]:
        """The next batch of values that an old key sealed, by row id."""
        ids, column = self.table.c.id, self.column
        statement = (
            select(ids, column)
            .where(ids > after, column.is_not(None), _key_id(column).in_(self.old_key_ids))
            .order_by(ids)
            .limit(BATCH)
        )
        with _reading(self.database) as session:
            return dict(session.connection().execute(statement).all())

    def _reseal(self, rows: Mapping[str, bytes]) -> tuple[Mapping[str, bytes], list[str]]:
        resealed, broken = {}, []
        for row, sealed in rows.items():
            context = {"table": self.table.name, "column": self.column.name, "row": row}
            try:
                resealed[row] = self.sealer.seal(self.sealer.open(sealed, **context), **context)
            except BrokenSeal:
                broken.append(row)
        return resealed, broken

    def _replace(self, old: Mapping[str, bytes], new: Mapping[str, bytes]) -> int:
        """Replace old values with new ones; returns the number of rows.

        Skips locked rows, to avoid waits and deadlocks.
        """
        ids = self.table.c.id
        unlocked = select(ids).where(ids.in_(new)).with_for_update(skip_locked=True)
        statement = (
            update(self.table)
            .where(ids == bindparam("row"), self.column == bindparam("old"))
            .values({self.column.name: bindparam("new")})
        )
        with self.database.transaction() as session:
            rows = sorted(session.connection().scalars(unlocked))
            if rows:
                changes = [{"row": row, "old": old[row], "new": new[row]} for row in rows]
                session.connection().execute(statement, changes)
        return len(rows)
