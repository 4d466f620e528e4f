"""Which errors blame a row, and which say that the database is in trouble."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.exc import OperationalError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from receiver.database import probe
from receiver.database.engine import Database
from receiver.database.trouble import flush_failed, is_trouble, reason_of
from tests.support.stores import Store

VALUES = {
    "taken": "INSERT INTO heartbeats SELECT * FROM heartbeats",
    "null": "INSERT INTO heartbeats (part) VALUES ('x')",
    "missing table": "INSERT INTO no_such_table VALUES (1)",
    "missing column": "UPDATE heartbeats SET no_such_column = 1",
}


def error_of(database: Database, *statements: str) -> SQLAlchemyError:
    """The error of the last statement in a transaction."""
    *before, last = statements
    with (  # noqa: PT012 - the others must succeed
        pytest.raises(SQLAlchemyError) as raised,
        database.transaction() as session,
    ):
        for each in before:
            session.execute(text(each))
        session.execute(text(last))
    return raised.value


@pytest.mark.both_databases
@pytest.mark.parametrize("what", VALUES)
def test_only_values_blame_a_row(store: Store, what: str) -> None:
    """A value that a constraint refuses does; a missing table or column does not."""
    probe.write(store.database)
    error = error_of(store.database, VALUES[what])
    assert is_trouble(error) is what.startswith("missing")
    if what.startswith("missing"):
        assert what.split()[1] in reason_of(error)
        assert "no_such" not in reason_of(error)


@pytest.mark.both_databases
def test_a_read_only_database_is_in_trouble(store: Store) -> None:
    """SQLAlchemy calls PostgreSQL's error internal; the probe says what it is."""
    if store.database.is_postgresql:
        error = error_of(
            store.database,
            "SET TRANSACTION READ ONLY",
            "INSERT INTO heartbeats SELECT * FROM heartbeats",
        )
    else:
        error = error_of(
            store.database, "PRAGMA query_only = ON", "DELETE FROM heartbeats WHERE 1 = 0"
        )
    assert is_trouble(error)
    assert reason_of(error) == "read-only"


def damaged(path: Path) -> None:
    """Overwrite the file."""
    path.write_bytes(b"no database at all" * 500)


def truncated(path: Path) -> None:
    """Cut off the tables, and leave the first page."""
    with path.open("r+b") as file:
        file.truncate(4096)


@pytest.mark.parametrize("damage", [damaged, truncated])
def test_a_damaged_file_is_trouble(sqlite_store: Store, damage: Callable[[Path], None]) -> None:
    """Its errors have the base class of all, which errors about values have too."""
    with sqlite_store.database.reading() as session:
        session.execute(text("PRAGMA wal_checkpoint(TRUNCATE)"))
    sqlite_store.database.dispose()
    path = Path(sqlite_store.url.removeprefix("sqlite:///"))
    damage(path)
    database = Database(sqlite_store.url)
    assert probe.reason(database) == "damaged"
    assert is_trouble(error_of(database, "SELECT * FROM inbox_events"))
    database.dispose()


def driver_error(code: int) -> OperationalError:
    """An error of SQLite with an extended result code."""
    error = sqlite3.OperationalError("disk I/O error")
    error.sqlite_errorcode = code
    return OperationalError("INSERT", {}, error)


@pytest.mark.parametrize(
    ("code", "stops", "reason"),
    [
        (sqlite3.SQLITE_IOERR_FSYNC, True, "the disk fails"),
        (sqlite3.SQLITE_IOERR_READ, True, "the disk fails"),
        (sqlite3.SQLITE_IOERR_WRITE, False, "the disk or the quota is full"),
        (sqlite3.SQLITE_FULL, False, "the disk or the quota is full"),
        (sqlite3.SQLITE_CANTOPEN, False, "the file cannot be opened"),
    ],
)
def test_a_refused_write_is_not_a_failed_flush(code: int, stops: bool, reason: str) -> None:
    """EDQUOT and EFBIG come as a failed write: the disk is full, and not broken."""
    error = driver_error(code)
    assert is_trouble(error)
    assert (flush_failed(error), reason_of(error)) == (stops, reason)


def test_no_free_connection_is_trouble() -> None:
    """The pool's time-out is no error of the driver."""
    assert is_trouble(PoolTimeout("no connection"))
    assert reason_of(PoolTimeout("no connection")) == "away"


def test_other_exceptions_are_not_trouble() -> None:
    """A bug, or a value that the driver cannot encode, is about a row."""
    assert not is_trouble(ValueError())
    assert not is_trouble(sqlite3.IntegrityError())
    assert is_trouble(sqlite3.OperationalError())
