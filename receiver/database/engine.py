"""One engine, and its ways in: a transaction that writes, and one that only reads.

PostgreSQL is asked to commit synchronously and to give up on slow statements before the sender of
a webhook would; of SQLite :mod:`receiver.database.sqlite` takes care.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import (
    BigInteger,
    DateTime,
    Dialect,
    Table,
    TypeDecorator,
    create_engine,
    text,
)
from sqlalchemy.dialects import postgresql
from sqlalchemy.dialects import sqlite as sqlite_dialect
from sqlalchemy.engine import URL, Connection, make_url
from sqlalchemy.exc import ArgumentError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.sql.dml import ReturningInsert
from sqlmodel import Session

from receiver import clock
from receiver.database import sqlite
from receiver.errors import ConfigurationError

# What says that the database is in trouble, and nothing about the rows.
TROUBLE = (OperationalError, InterfaceError, PoolTimeout)
_PERSISTENCE = (0.1, 0.5)
_Result = TypeVar("_Result")
# Custom plans: one that is made for any values does not know that so few rows are due, and goes
# through the whole table to find one.
POSTGRESQL_OPTIONS = (
    "-c plan_cache_mode=force_custom_plan -c synchronous_commit=on "
    "-c statement_timeout=5s -c lock_timeout=2s "
    "-c idle_in_transaction_session_timeout=30s -c timezone=UTC"
)
# A server that vanished without a word (a cut cable, a host that died) is noticed by the kernel;
# one that is merely silent is not, and whoever cannot wait must have a deadline of their own.
_LIVELINESS: Mapping[str, int] = {
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,
}
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


class UtcTime(TypeDecorator[datetime]):
    """An aware time in UTC: ``timestamptz`` on PostgreSQL, integer microseconds on SQLite."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> Any:  # noqa: D102
        if dialect.name == "sqlite":
            return dialect.type_descriptor(BigInteger())
        return dialect.type_descriptor(DateTime(timezone=True))

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> Any:  # noqa: D102
        if value is None or dialect.name != "sqlite":
            return value
        return (value - _EPOCH) // _MICROSECOND

    def process_result_value(self, value: Any, dialect: Dialect) -> datetime | None:  # noqa: D102
        if value is None:
            return None
        if dialect.name == "sqlite":
            return _EPOCH + timedelta(microseconds=value)
        utc: datetime = value.astimezone(UTC)
        return utc


def parse_url(text_: str) -> URL:
    """The SQLAlchemy URL of a ``DATABASE_URL`` value.

    Raises:
        ConfigurationError: it names neither a SQLite file nor a PostgreSQL database.
    """
    wanted = "DATABASE_URL: wants sqlite:///PATH or postgresql://USER:PASSWORD@HOST/NAME"
    try:
        url = make_url(text_)
    except (ArgumentError, ValueError):  # ValueError: the port, whose text may be a password's
        raise ConfigurationError(wanted) from None
    if url.drivername == "sqlite" and url.database and url.database != ":memory:":
        return url
    if url.drivername in {"postgresql", "postgres", "postgresql+psycopg"}:
        return url.set(drivername="postgresql+psycopg")
    raise ConfigurationError(wanted)


class Database:
    """The database of one process; not to be carried over a fork.

    Args:
        url: as ``DATABASE_URL`` has it.
        pool_size: connections that stay open; twice as many may be.
        most_bytes: of a SQLite file, beyond which it takes nothing more; None for no limit.
    """

    def __init__(self, url: str, *, pool_size: int = 8, most_bytes: int | None = None) -> None:
        parsed = parse_url(url)
        self.is_postgresql = parsed.drivername.startswith("postgresql")
        # hide_parameters: an exception's text must never quote what was bound.
        common: dict[str, Any] = {"hide_parameters": True, "pool_size": pool_size}
        if self.is_postgresql:
            self.engine = create_engine(
                parsed,
                pool_pre_ping=True,
                max_overflow=pool_size,
                pool_timeout=5,
                connect_args={"options": POSTGRESQL_OPTIONS, "connect_timeout": 3, **_LIVELINESS},
                **common,
            )
        else:
            _make_folder(Path(parsed.database or "").parent)
            self.engine = create_engine(
                parsed,
                connect_args={"timeout": sqlite.BUSY_SECONDS},
                max_overflow=pool_size,
                **common,
            )
            sqlite.prepare(self.engine, most_bytes)
        self._writing = self.engine.execution_options(**{sqlite.WRITES: True})
        # SQLite makes a writer that must wait sleep, longer each time; the threads of one
        # process queue up here instead, and go on at once.
        self.turn: AbstractContextManager[object] = (
            nullcontext() if self.is_postgresql else threading.Lock()
        )

    @contextmanager
    def transaction(self) -> Iterator[Session]:
        """A session that may write, committed when the block ends and rolled back if it raises."""
        with (
            self.turn,
            Session(self._writing, expire_on_commit=False) as session,
            session.begin(),
        ):
            yield session

    @contextmanager
    def reading(self) -> Iterator[Session]:
        """A session that only reads: it never waits for a writer, nor holds one up."""
        with Session(self.engine, expire_on_commit=False) as session:
            yield session

    def committing_each(self) -> Connection:
        """A connection on which each statement is a transaction of its own, to be closed.

        On SQLite it wants ``turn``, and finds the file busy where another process writes.
        """
        if self.is_postgresql:
            return self.engine.connect().execution_options(isolation_level="AUTOCOMMIT")
        return self.engine.connect().execution_options(**{sqlite.COMMITS_EACH: True})

    def now(self, session: Session) -> datetime:
        """The time that leases are measured by: one clock for all hosts of one database."""
        if self.is_postgresql:
            value: datetime = session.connection().scalar(text("SELECT clock_timestamp()"))
            return value.astimezone(UTC)
        return clock.now()

    def empty_log(self, *, patience: float) -> bool:
        """Take what was overwritten out of SQLite's write-ahead log as well; whether that is done.

        Writers wait for it, and it waits at most ``patience`` seconds for those who read. Of
        PostgreSQL, which cleans up by itself, nothing is asked.
        """
        if self.is_postgresql:
            return True
        with self.turn, closing(self.engine.raw_connection()) as connection:
            cursor = connection.cursor()
            cursor.execute(f"PRAGMA busy_timeout={int(patience * 1000)}")
            try:
                (busy, _, _) = cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            except sqlite3.OperationalError:  # somebody else writes
                return False
            finally:
                cursor.execute(f"PRAGMA busy_timeout={int(sqlite.BUSY_SECONDS * 1000)}")
                cursor.close()
        return not busy

    def dispose(self) -> None:
        """Close every connection; the next use opens new ones."""
        self.engine.dispose()


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigurationError(
            f"DATABASE_URL: wants a file whose directory can be made: {error.strerror}"
        ) from None


def persist(work: Callable[[], _Result]) -> _Result:
    """Do ``work``, a transaction of its own, again where it failed for no fault of its own.

    For what must not be lost to a passing trouble: the record of an effect that was had.

    Raises:
        OperationalError, InterfaceError, TimeoutError: of SQLAlchemy; the trouble has not passed.
    """
    for pause in _PERSISTENCE:
        try:
            return work()
        except TROUBLE:
            time.sleep(pause)
    return work()


def kind_of(error: Exception) -> str:
    """A database's error in the driver's terms; its whole message may quote what was sent."""
    cause = getattr(error, "orig", None) or error
    code = getattr(cause, "sqlstate", None) or getattr(cause, "sqlite_errorname", None)
    return " ".join(filter(None, (type(cause).__name__, code)))


def insert_once(session: Session, table: Table, values: Mapping[str, object]) -> bool:
    """Insert one row unless a unique key is taken; whether it was inserted."""
    statement = _insert_once(session.get_bind().dialect.name, table)
    return session.connection().execute(statement, dict(values)).first() is not None


@cache  # to build a statement costs more than to run it
def _insert_once(dialect: str, table: Table) -> ReturningInsert[Any]:
    insert = postgresql.insert if dialect == "postgresql" else sqlite_dialect.insert
    return insert(table).on_conflict_do_nothing().returning(*table.primary_key.columns)
