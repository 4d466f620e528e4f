"""SQLite: connection settings, and how writers wait for the write lock.

The file is in WAL mode with ``synchronous=FULL`` (with ``NORMAL`` a power cut may undo committed
transactions). A writing transaction takes the write lock when it begins: one that upgrades later
does not wait for the lock but fails.
"""

from __future__ import annotations

import sqlite3
import time
from typing import Final

from sqlalchemy import Engine, event
from sqlalchemy.engine import Connection
from sqlalchemy.pool import ConnectionPoolEntry

BUSY_SECONDS = 5.0
# Execution options that say what a connection is for: transactions that write, or statements in
# autocommit mode. A connection without either only reads.
WRITES: Final = "codecatch_writes"
AUTOCOMMITS: Final = "codecatch_autocommits"
# secure_delete: deleted content is overwritten in the file, not only unlinked.
_PRAGMAS = ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "secure_delete=ON")
# How often a waiting writer tries to take the write lock. The one that tries more often wins: a
# receiver, because the sender of its webhook waits.
_POLL_SECONDS = 0.0005
FAST_POLL_SECONDS = 0.0001
_PRIMARY_CODE = 0xFF


def prepare(engine: Engine, max_bytes: int | None) -> None:
    """Set up the connections of ``engine``, and how its transactions begin."""

    @event.listens_for(engine, "connect")
    def configure(connection: sqlite3.Connection, _: ConnectionPoolEntry) -> None:
        # The driver must not begin transactions: the listener below does.
        connection.isolation_level = None
        for pragma in _PRAGMAS:
            connection.execute(f"PRAGMA {pragma}").close()
        if max_bytes is not None:
            (page,) = connection.execute("PRAGMA page_size").fetchone()
            connection.execute(f"PRAGMA max_page_count={max_bytes // page}").close()

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        options = connection.get_execution_options()
        if options.get(WRITES):
            _begin_writing(connection)
        elif not options.get(AUTOCOMMITS):
            connection.exec_driver_sql("BEGIN")


def _begin_writing(connection: Connection) -> None:
    driver = driver_of(connection)
    driver.execute("PRAGMA busy_timeout=0").close()
    try:
        begin_immediate(connection)
    finally:
        driver.execute(f"PRAGMA busy_timeout={int(BUSY_SECONDS * 1000)}").close()


def begin_immediate(connection: Connection, *, poll_seconds: float = _POLL_SECONDS) -> None:
    """Begin a writing transaction as soon as no other process holds the write lock.

    The connection's busy time-out must be 0. SQLite's own busy handler sleeps longer each time,
    up to a tenth of a second; if other processes write one transaction after another, it never
    gets the lock.

    Raises:
        OperationalError: of SQLAlchemy; the lock was not free within 5 s.
    """
    driver = driver_of(connection)
    until = time.monotonic() + BUSY_SECONDS
    while _is_locked(driver) and time.monotonic() < until:
        time.sleep(poll_seconds)
    if not driver.in_transaction:
        connection.exec_driver_sql("BEGIN IMMEDIATE")


def driver_of(connection: Connection) -> sqlite3.Connection:
    """The driver's connection behind one of SQLAlchemy's."""
    driver: sqlite3.Connection = connection.connection.dbapi_connection  # type: ignore[assignment]
    return driver


def _is_locked(driver: sqlite3.Connection) -> bool:
    """Try to begin a writing transaction; whether another connection holds the write lock."""
    try:
        driver.execute("BEGIN IMMEDIATE").close()
    except sqlite3.OperationalError as error:
        return is_busy(error)
    return False


def is_busy(error: BaseException | None) -> bool:
    """Whether the error says that another connection holds the lock."""
    return primary_code(error) == sqlite3.SQLITE_BUSY


def primary_code(error: BaseException | None) -> int | None:
    """SQLite's primary result code of a driver's error; None for any other error."""
    code = extended_code(error)
    return None if code is None else code & _PRIMARY_CODE


def extended_code(error: BaseException | None) -> int | None:
    """SQLite's extended result code of a driver's error; None for any other error."""
    code: int | None = getattr(error, "sqlite_errorcode", None)
    return code
