"""Which keys seal what is stored, and sealing it anew with the first of them while all goes on.

A value is replaced only if it is still the one that was read, so what is purged or changed in
between stays so. Nothing remembers how far a rotation has come: what is not sealed with the first
key is what is left to do, whoever was killed.
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
from receiver.failpoints import reach
from receiver.inbox import spool
from receiver.vault import index_key
from receiver.vault.sealing import KEY_ID_AT, BrokenSeal, Sealer, key_id
from worker.schema import migrate as schema

BATCH: Final = 500
# Between two batches others write, in seconds.
_PAUSE: Final = 0.02
_SPOOL: Final = "spool"
# To read a whole table takes longer than anything in a webhook's way may take.
_PATIENCE: Final = text("SET LOCAL statement_timeout = 0")


@dataclass(frozen=True, slots=True)
class Sealed:
    """How many values of one column were sealed with one key, by the key's id in hex."""

    key: str
    table: str
    column: str
    values: int


@dataclass(frozen=True, slots=True)
class Step:
    """How far the rotation of one column has come; ``broken`` are rows that do not open."""

    table: str
    column: str
    done: int
    total: int
    broken: Sequence[str] = ()


def count(database: Database, spool_dir: Path | None = None) -> list[Sealed]:
    """What is sealed with which key, in the database and in this host's spool."""
    counted = []
    for table, column in _sealed_columns():
        sealed_by = _key_id(column)
        with _reading(database) as session:
            grouped = select(sealed_by, func.count()).where(column.is_not(None)).group_by(sealed_by)
            rows = session.connection().execute(grouped).all()
        # SQLite has no part of an empty value, which is none that was sealed.
        counted += [
            Sealed((key or b"").hex(), table.name, column.name, number) for key, number in rows
        ]
    waiting = spool.sealed_by(spool_dir) if spool_dir is not None else {}
    counted += [Sealed(key.hex(), _SPOOL, "body", number) for key, number in waiting.items()]
    return sorted(counted, key=lambda each: (each.table, each.column, each.key))


def rotate(
    database: Database, keys: Sequence[bytes], spool_dir: Path | None = None
) -> Iterator[Step]:
    """Seal with the first key what the others sealed, a batch at a time.

    What was sealed with a key that is not among ``keys``, or does not open, stays as it is.
    """
    olds = sorted({key_id(key) for key in keys} - {key_id(keys[0])})
    before: dict[tuple[str, str], int] = {}
    for each in count(database):
        if bytes.fromhex(each.key) in olds:
            place = each.table, each.column
            before[place] = before.get(place, 0) + each.values
    sealer = Sealer(keys)
    for table, column in _sealed_columns():
        total = before.get((table.name, column.name), 0)
        if total:
            yield from _Rotation(database, sealer, table, column, olds, total).run()
    if spool_dir is not None and spool_dir.is_dir():
        index_key.keep(spool_dir, index_key.sealed(database))
    database.empty_log(patience=1.0)


def _sealed_columns() -> Iterator[tuple[Table, Column[Any]]]:
    """Every column that holds sealed values: nothing else is kept as bytes."""
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
            session.connection().execute(_PATIENCE)
        yield session


@dataclass(frozen=True, slots=True)
class _Rotation:
    """The rotation of one column: what the keys ``olds`` sealed, ``total`` values."""

    database: Database
    sealer: Sealer
    table: Table
    column: Column[Any]
    olds: Sequence[bytes]
    total: int

    def run(self) -> Iterator[Step]:
        done, before = 0, -1
        while before < done:  # what somebody had in hand may be free by now
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
        """The next batch of values that the old keys sealed, by the ids of their rows."""
        ids, column = self.table.c.id, self.column
        chosen = (
            select(ids, column)
            .where(ids > after, column.is_not(None), _key_id(column).in_(self.olds))
            .order_by(ids)
            .limit(BATCH)
        )
        with _reading(self.database) as session:
            return dict(session.connection().execute(chosen).all())

    def _reseal(self, rows: Mapping[str, bytes]) -> tuple[Mapping[str, bytes], list[str]]:
        resealed, broken = {}, []
        for row, sealed in rows.items():
            place = {"table": self.table.name, "column": self.column.name, "row": row}
            try:
                resealed[row] = self.sealer.seal(self.sealer.open(sealed, **place), **place)
            except BrokenSeal:
                broken.append(row)
        return resealed, broken

    def _replace(self, old: Mapping[str, bytes], new: Mapping[str, bytes]) -> int:
        """Write new values over old ones; how many rows those are.

        Rows that somebody has in hand are passed over, so that nobody waits for each other.
        """
        ids = self.table.c.id
        free = select(ids).where(ids.in_(new)).with_for_update(skip_locked=True)
        statement = (
            update(self.table)
            .where(ids == bindparam("row"), self.column == bindparam("old"))
            .values({self.column.name: bindparam("new")})
        )
        with self.database.transaction() as session:
            rows = sorted(session.connection().scalars(free))
            if rows:
                changes = [{"row": row, "old": old[row], "new": new[row]} for row in rows]
                session.connection().execute(statement, changes)
        return len(rows)
