"""SQLite's file: how its connections are set up, and how writers take turns.

It runs in WAL with ``synchronous=FULL`` (with ``NORMAL`` a power cut may take back what was
committed) and takes its write lock at once (a transaction that upgrades later does not wait for
the lock, it fails).
"""

from __future__ import annotations

import sqlite3
import time
from typing import Final

from sqlalchemy import Engine, event
from sqlalchemy.engine import Connection
from sqlalchemy.pool import ConnectionPoolEntry

BUSY_SECONDS = 5.0
# What a connection is for, among its execution options: to write in transactions, or to commit
# each statement; without either it only reads.
WRITES: Final = "codecatch_writes"
COMMITS_EACH: Final = "codecatch_commits_each"
# secure_delete: what is taken out of the file is overwritten, and not only let go of.
_PRAGMAS = ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "secure_delete=ON")
# How often a writer looks whether another process is done. Whoever looks more often comes first:
# a receiver, whose sender waits.
_LOOK_SECONDS = 0.0005
HASTY_LOOK_SECONDS = 0.0001
_PRIMARY_CODE = 0xFF


def prepare(engine: Engine, most_bytes: int | None) -> None:
    """Give every connection of ``engine`` its settings, and each transaction its beginning."""

    @event.listens_for(engine, "connect")
    def configure(connection: sqlite3.Connection, _: ConnectionPoolEntry) -> None:
        # Transactions are begun below, in words of our own: the driver must not begin any.
        connection.isolation_level = None
        for pragma in _PRAGMAS:
            connection.execute(f"PRAGMA {pragma}").close()
        if most_bytes is not None:
            (page,) = connection.execute("PRAGMA page_size").fetchone()
            connection.execute(f"PRAGMA max_page_count={most_bytes // page}").close()

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        options = connection.get_execution_options()
        if options.get(WRITES):
            _await_turn(connection)
        elif not options.get(COMMITS_EACH):
            connection.exec_driver_sql("BEGIN")


def _await_turn(connection: Connection) -> None:
    driver = driver_of(connection)
    driver.execute("PRAGMA busy_timeout=0").close()
    try:
        begin_in_turn(connection)
    finally:
        driver.execute(f"PRAGMA busy_timeout={int(BUSY_SECONDS * 1000)}").close()


def begin_in_turn(connection: Connection, *, look_seconds: float = _LOOK_SECONDS) -> None:
    """Begin to write to a SQLite file as soon as no other process does; its busy time-out is 0.

    SQLite's own way of waiting sleeps longer each time, up to a tenth of a second, and where
    others write one transaction after the other it always comes too late.

    Raises:
        OperationalError: of SQLAlchemy; it was not to be had within 5 s.
    """
    driver = driver_of(connection)
    until = time.monotonic() + BUSY_SECONDS
    while _others_write(driver) and time.monotonic() < until:
        time.sleep(look_seconds)
    if not driver.in_transaction:
        connection.exec_driver_sql("BEGIN IMMEDIATE")


def driver_of(connection: Connection) -> sqlite3.Connection:
    """The driver's own connection behind one of SQLAlchemy's."""
    driver: sqlite3.Connection = connection.connection.dbapi_connection  # type: ignore[assignment]
    return driver


def _others_write(driver: sqlite3.Connection) -> bool:
    """Begin to write; whether that failed because somebody else does."""
    try:
        driver.execute("BEGIN IMMEDIATE").close()
    except sqlite3.OperationalError as error:
        return is_busy(error)
    return False


def is_busy(error: BaseException | None) -> bool:
    """Whether SQLite found that somebody else writes."""
    return primary_code(error) == sqlite3.SQLITE_BUSY


def primary_code(error: BaseException | None) -> int | None:
    """SQLite's own number of an error of its driver; None of any other error."""
    code = getattr(error, "sqlite_errorcode", None)
    return None if code is None else code & _PRIMARY_CODE
