"""The database engine: durable, with time-outs, and the same on both servers."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
from sqlalchemy import column, select, table, text
from sqlalchemy.exc import DBAPIError, OperationalError

from receiver import clock
from receiver.database import sqlite
from receiver.database.engine import Database, UtcTime, insert_once, parse_url, persist
from receiver.database.heartbeats import Heartbeat
from receiver.errors import ConfigurationError
from tests.support.stores import Store

pytestmark = pytest.mark.both_databases

HEARTBEATS = Heartbeat.__table__  # type: ignore[attr-defined]


@pytest.fixture
def plain(tmp_path: Path) -> Iterator[Database]:
    """An empty SQLite database in a directory that does not exist yet."""
    opened = Database(f"sqlite:///{tmp_path / 'new' / 'folder' / 'codecatch.db'}")
    yield opened
    opened.dispose()


@pytest.mark.parametrize(
    ("text_", "driver"),
    [
        ("sqlite:///var/x.db", "sqlite"),
        ("sqlite:////var/x.db", "sqlite"),
        ("postgresql://u:p@h:5432/d", "postgresql+psycopg"),
        ("postgres://u:p@h/d?sslmode=require", "postgresql+psycopg"),
        ("postgresql+psycopg://u@h/d", "postgresql+psycopg"),
    ],
)
def test_common_urls_are_accepted(text_: str, driver: str) -> None:
    """The URLs that hosting companies provide work unchanged."""
    assert parse_url(text_).drivername == driver


@pytest.mark.parametrize(
    "text_",
    [
        *("", "x", "sqlite://", "sqlite:///:memory:", "mysql://h/d", "postgresql+psycopg2://h/d"),
        *("postgresql://u:hunter2@h:nope/d", "postgresql://u:x@y:hunter2@h/d"),
    ],
)
def test_other_urls_are_refused_and_not_quoted(text_: str) -> None:
    """The error says what the URL must be, and shows no part of a password."""
    with pytest.raises(ConfigurationError, match=r"^DATABASE_URL: must be sqlite") as refused:
        parse_url(text_)
    assert "hunter2" not in str(refused.value)


def test_sqlite_survives_a_power_cut(plain: Database) -> None:
    """The journal is a write-ahead log, flushed at every commit."""
    with plain.reading() as session:
        values = [
            session.connection().scalar(text(f"PRAGMA {name}"))
            for name in ("journal_mode", "synchronous", "foreign_keys")
        ]
    assert values == ["wal", 2, 1]


def test_sqlite_takes_the_write_lock_at_once(
    sqlite_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A writing transaction blocks other writers from its beginning, but not readers."""
    monkeypatch.setattr(sqlite, "BUSY_SECONDS", 0.05)
    other = Database(sqlite_store.url)
    with sqlite_store.database.transaction() as holding:
        assert holding.connection() is not None
        with other.reading() as session:
            assert session.connection().scalar(text("SELECT count(*) FROM heartbeats")) == 0
        with pytest.raises(OperationalError, match="locked"), other.transaction() as session:
            session.connection()
    other.dispose()


def test_a_writer_gets_the_lock_from_a_busy_process(sqlite_store: Store) -> None:
    """A process that writes almost all the time does not starve another writer."""
    other = Database(sqlite_store.url)
    begun, served = threading.Event(), threading.Event()

    def write_repeatedly() -> int:
        for attempt in range(500):
            with other.transaction() as session:
                session.connection()
                begun.set()
                time.sleep(0.02)
            if served.is_set():
                return attempt
            time.sleep(0.002)
        return 500

    with ThreadPoolExecutor(1) as thread:
        attempts = thread.submit(write_repeatedly)
        assert begun.wait(10)
        with sqlite_store.database.transaction() as session:
            session.connection()
            served.set()
        assert attempts.result(30) < 20
    other.dispose()


def test_postgresql_has_time_outs(store: Store) -> None:
    """Commits are synchronous, and a slow statement is cancelled before the sender gives up."""
    if not store.database.is_postgresql:
        pytest.skip("only PostgreSQL has such settings")
    with store.database.reading() as session:
        values = [
            session.connection().scalar(text(f"SHOW {name}"))
            for name in (
                "synchronous_commit", "statement_timeout", "lock_timeout", "timezone",
                "plan_cache_mode",
            )
        ]  # fmt: skip
    assert values == ["on", "5s", "2s", "UTC", "force_custom_plan"]


def test_a_transaction_is_committed_when_its_block_ends(store: Store) -> None:
    """Another session sees the row, and no row of a block that raised."""
    at = clock.now()
    with store.database.transaction() as session:
        assert insert_once(session, HEARTBEATS, {"part": "kept", "seen_at": at})

    def fail_halfway() -> None:
        with store.database.transaction() as session:
            insert_once(session, HEARTBEATS, {"part": "lost", "seen_at": at})
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_halfway()
    with store.database.reading() as session:
        assert session.connection().scalars(select(HEARTBEATS.c.part)).all() == ["kept"]


def test_an_equal_row_is_inserted_once(store: Store) -> None:
    """The second insert of a key changes nothing and returns False."""
    with store.database.transaction() as session:
        outcomes = [
            insert_once(session, HEARTBEATS, {"part": "web", "seen_at": clock.now()})
            for _ in range(2)
        ]
    assert outcomes == [True, False]


@pytest.mark.parametrize(
    "moment",
    [
        datetime(2026, 6, 11, 9, 14, 27, 318001, tzinfo=UTC),
        datetime(1, 1, 1, tzinfo=UTC),
        datetime(9999, 12, 31, 23, 59, 59, 999999, tzinfo=UTC),
        datetime(2026, 6, 11, 11, 14, tzinfo=timezone(timedelta(hours=2))),
    ],
)
def test_times_keep_their_microseconds(store: Store, moment: datetime) -> None:
    """A stored time is read as the same moment in UTC, also at both ends of the calendar."""
    with store.database.transaction() as session:
        insert_once(session, HEARTBEATS, {"part": "web", "seen_at": moment})
    with store.database.reading() as session:
        found = session.get_one(Heartbeat, "web").seen_at
    assert found == moment
    assert found.utcoffset() == timedelta(0)


def test_stored_times_sort_chronologically(store: Store) -> None:
    """The zone that a time was given in does not matter."""
    base = datetime(2026, 6, 11, tzinfo=UTC)
    zone = timezone(timedelta(hours=-9))
    with store.database.transaction() as session:
        for hours in (3, 1, 2):
            moment = (base + timedelta(hours=hours)).astimezone(zone)
            insert_once(session, HEARTBEATS, {"part": str(hours), "seen_at": moment})
    with store.database.reading() as session:
        ordered = select(HEARTBEATS.c.part).order_by(HEARTBEATS.c.seen_at)
        assert session.connection().scalars(ordered).all() == ["1", "2", "3"]


def test_now_is_the_servers_time(store: Store) -> None:
    """The time for leases is aware, in UTC, and on PostgreSQL the server's."""
    with store.database.reading() as session:
        now = store.database.now(session)
    assert now.utcoffset() == timedelta(0)
    assert abs(now - clock.now()) < timedelta(seconds=30)


def test_an_error_does_not_quote_bound_values(store: Store) -> None:
    """The error of a failed statement contains its SQL, but no values."""
    values = table("no_such_table", column("code"))
    with pytest.raises(DBAPIError) as failed, store.database.transaction() as session:
        session.execute(values.insert().values(code="483921"))
    assert "483921" not in str(failed.value)


def test_the_file_of_a_database_is_a_sqlite_file(plain: Database, tmp_path: Path) -> None:
    """The directory is created, and other programs can read the file."""
    with plain.transaction() as session:
        session.execute(text("CREATE TABLE t (at BIGINT)"))
        session.execute(table("t", column("at", UtcTime())).insert().values(at=clock.now()))
    with closing(sqlite3.connect(tmp_path / "new" / "folder" / "codecatch.db")) as connection:
        (micros,) = connection.execute("SELECT at FROM t").fetchone()
    assert isinstance(micros, int)


@pytest.mark.parametrize(("failures", "attempts"), [(0, 1), (2, 3), (9, 3)])
def test_persist_retries_a_failed_transaction_twice(
    failures: int, attempts: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then it raises the error of the third attempt."""
    monkeypatch.setattr("receiver.database.engine.time.sleep", lambda _: None)
    calls: list[int] = []

    def work() -> str:
        calls.append(1)
        if len(calls) <= failures:
            raise OperationalError("x", None, Exception())
        return "done"

    if failures < attempts:
        assert persist(work) == "done"
    else:
        with pytest.raises(OperationalError):
            persist(work)
    assert len(calls) == attempts
