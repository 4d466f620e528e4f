"""The database engine, with sessions that write and sessions that only read.

PostgreSQL commits synchronously, and cancels slow statements before the sender of a webhook gives
up. The settings for SQLite are in :mod:`receiver.database.sqlite`.
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

from sqlalchemy import BigInteger, DateTime, Dialect, Table, TypeDecorator, create_engine, text
from sqlalchemy.dialects import postgresql
from sqlalchemy.dialects import sqlite as sqlite_dialect
from sqlalchemy.engine import URL, Connection, make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError
from sqlalchemy.sql.dml import ReturningInsert
from sqlmodel import Session

from receiver import clock
from receiver.database import sqlite
from receiver.database.trouble import is_trouble
from receiver.errors import ConfigurationError

_RETRY_SECONDS = (0.1, 0.5)
_Result = TypeVar("_Result")
# Custom plans: a generic plan does not know how few rows are due, and scans the whole table for
# them.
POSTGRESQL_OPTIONS = (
    "-c plan_cache_mode=force_custom_plan -c synchronous_commit=on "
    "-c statement_timeout=5s -c lock_timeout=2s "
    "-c idle_in_transaction_session_timeout=30s -c timezone=UTC"
)
# The kernel detects a server that is unreachable (a cut cable, a dead host). It does not detect a
# server that hangs: callers that cannot wait need their own deadline.
_KEEPALIVE: Mapping[str, int] = {
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
        ConfigurationError: it is the URL of neither a SQLite file nor a PostgreSQL database.
    """
    message = "DATABASE_URL: must be sqlite:///PATH or postgresql://USER:PASSWORD@HOST/NAME"
    try:
        url = make_url(text_)
    except (ArgumentError, ValueError):  # ValueError: the port, which may be part of a password
        raise ConfigurationError(message) from None
    if url.drivername == "sqlite" and url.database and url.database != ":memory:":
        return url
    if url.drivername in {"postgresql", "postgres", "postgresql+psycopg"}:
        return url.set(drivername="postgresql+psycopg")
    raise ConfigurationError(message)


class Database:
    """The database of one process; it must not be used across a fork.

    Args:
        url: in the form of ``DATABASE_URL``.
        pool_size: connections that stay open; up to twice as many may be open at once.
        max_bytes: the size limit of a SQLite file; None for no limit.
    """

    def __init__(self, url: str, *, pool_size: int = 8, max_bytes: int | None = None) -> None:
        parsed = parse_url(url)
        self.is_postgresql = parsed.drivername.startswith("postgresql")
        # hide_parameters: an exception's text must never quote bound values.
        common: dict[str, Any] = {"hide_parameters": True, "pool_size": pool_size}
        if self.is_postgresql:
            self.engine = create_engine(
                parsed,
                pool_pre_ping=True,
                max_overflow=pool_size,
                pool_timeout=5,
                connect_args={"options": POSTGRESQL_OPTIONS, "connect_timeout": 3, **_KEEPALIVE},
                **common,
            )
        else:
            _create_directory(Path(parsed.database or "").parent)
            self.engine = create_engine(
                parsed,
                connect_args={"timeout": sqlite.BUSY_SECONDS},
                max_overflow=pool_size,
                **common,
            )
            sqlite.prepare(self.engine, max_bytes)
        self._writing = self.engine.execution_options(**{sqlite.WRITES: True})
        # A writer that waits for SQLite's lock sleeps between its attempts. The threads of one
        # process wait for this lock instead, and continue at once when it is free.
        self.write_lock: AbstractContextManager[object] = (
            nullcontext() if self.is_postgresql else threading.Lock()
        )

    @contextmanager
    def transaction(self) -> Iterator[Session]:
        """A session that may write; commits when the block ends, rolls back if it raises."""
        with (
            self.write_lock,
            Session(self._writing, expire_on_commit=False) as session,
            session.begin(),
        ):
            yield session

    @contextmanager
    def reading(self) -> Iterator[Session]:
        """A session that only reads; it neither waits for writers nor blocks them."""
        with Session(self.engine, expire_on_commit=False) as session:
            yield session

    def autocommit_connection(self) -> Connection:
        """A connection in autocommit mode; the caller closes it.

        On SQLite, hold ``write_lock`` while writing; the file is busy while another process writes.
        """
        if self.is_postgresql:
            return self.engine.connect().execution_options(isolation_level="AUTOCOMMIT")
        return self.engine.connect().execution_options(**{sqlite.AUTOCOMMITS: True})

    def now(self, session: Session) -> datetime:
        """The time for leases: on PostgreSQL the server's, so that all hosts share one clock."""
        if self.is_postgresql:
            value: datetime = session.connection().scalar(text("SELECT clock_timestamp()"))
            return value.astimezone(UTC)
        return clock.now()

    def truncate_wal(self, *, timeout: float) -> bool:
        """Remove overwritten content from SQLite's write-ahead log too; whether that succeeded.

        Blocks writers, and waits at most ``timeout`` seconds for readers. PostgreSQL needs no such
        step: always True there.
        """
        if self.is_postgresql:
            return True
        with self.write_lock, closing(self.engine.raw_connection()) as connection:
            cursor = connection.cursor()
            cursor.execute(f"PRAGMA busy_timeout={int(timeout * 1000)}")
            try:
                (busy, _, _) = cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            except sqlite3.OperationalError:  # another process is writing
                return False
            finally:
                cursor.execute(f"PRAGMA busy_timeout={int(sqlite.BUSY_SECONDS * 1000)}")
                cursor.close()
        return not busy

    def dispose(self) -> None:
        """Close every connection; the next use opens new ones."""
        self.engine.dispose()


def _create_directory(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigurationError(
            f"DATABASE_URL: cannot create the directory of the SQLite file ({error.strerror}); "
            "choose another path"
        ) from None


def persist(work: Callable[[], _Result]) -> _Result:
    """Run ``work``, a whole transaction; retry it twice if the database is in trouble.

    For records that a short trouble must not lose, such as the outcome of a call.

    Raises:
        SQLAlchemyError: the last attempt failed too.
    """
    for seconds in _RETRY_SECONDS:
        try:
            return work()
        except SQLAlchemyError as error:
            if not is_trouble(error):
                raise
            time.sleep(seconds)
    return work()


def insert_once(session: Session, table: Table, values: Mapping[str, object]) -> bool:
    """Insert one row unless a unique key is taken; whether it was inserted."""
    statement = _insert_once(session.get_bind().dialect.name, table)
    return session.connection().execute(statement, dict(values)).first() is not None


@cache  # building a statement costs more than running it
def _insert_once(dialect: str, table: Table) -> ReturningInsert[Any]:
    insert = postgresql.insert if dialect == "postgresql" else sqlite_dialect.insert
    return insert(table).on_conflict_do_nothing().returning(*table.primary_key.columns)
