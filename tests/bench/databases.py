"""Direct access to the subjects' databases."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg

_SQLITE = "sqlite:///"


@dataclass(frozen=True, slots=True)
class BenchDatabase:
    """One database; ``floors`` are, by table, the last ids of the rows that are not counted."""

    url: str
    floors: dict[str, str] = field(default_factory=dict)

    @classmethod
    def in_file(cls, file: Path) -> BenchDatabase:
        """An SQLite database."""
        return cls(f"{_SQLITE}{file}")

    @property
    def is_sqlite(self) -> bool:
        """Whether it is a file."""
        return self.url.startswith(_SQLITE)

    def connect(self) -> Any:
        """A connection of the database's own driver; the caller must close it."""
        if self.is_sqlite:
            return sqlite3.connect(self.url.removeprefix(_SQLITE), timeout=30)
        return psycopg.connect(self.url)

    def count(self, table: str, only: str = "1 = 1") -> int:
        """The number of rows above the table's floor; uses an index, since it is called often."""
        return int(self.value(f"SELECT count(*) FROM {table} WHERE id > '{self._floor(table)}'"
                              f" AND {only}"))  # fmt: skip

    def value(self, query: str) -> Any:
        """The first column of the first row."""
        with closing(self.connect()) as connection:
            return connection.execute(query).fetchone()[0]

    def write_copy(self, file: Path) -> None:
        """Copy an SQLite database, including its write-ahead log."""
        with closing(self.connect()) as ours, closing(sqlite3.connect(file)) as copy:
            ours.backup(copy)

    def _floor(self, table: str) -> str:
        return self.floors.get(table, "")
