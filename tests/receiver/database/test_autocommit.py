"""Autocommit: single statements, also while another process writes."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from functools import partial

import pytest
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError, IntegrityError, OperationalError

from receiver.database import sqlite
from receiver.database.autocommit import Autocommit
from tests.receiver.database.locks import inbox_locked
from tests.support.stores import Store, open_store
from tests.support.waiting import eventually

pytestmark = pytest.mark.both_databases

COUNT = text("SELECT count(*) FROM schema_notes")


@contextmanager
def with_notes(store: Store) -> Iterator[Autocommit]:
    """An Autocommit on a database with a table of notes."""
    with store.database.transaction() as session:
        session.execute(text("CREATE TABLE schema_notes (note text PRIMARY KEY)"))
    opened = Autocommit(store.database)
    yield opened
    opened.close()


@pytest.fixture
def autocommit(store: Store) -> Iterator[Autocommit]:
    """An Autocommit on either database server."""
    with with_notes(store) as opened:
        yield opened


@pytest.fixture
def sqlite_autocommit(sqlite_store: Store) -> Iterator[Autocommit]:
    """An Autocommit on SQLite, which has a single writer."""
    with with_notes(sqlite_store) as opened:
        yield opened


@pytest.fixture
def other(sqlite_store: Store) -> Iterator[Store]:
    """The same SQLite file, opened as another process would."""
    opened = open_store(sqlite_store.url)
    yield opened
    opened.database.dispose()


def insert(note: str) -> str:
    """The statement that inserts a note."""
    return f"INSERT INTO schema_notes VALUES ('{note}')"


def write(autocommit: Autocommit, note: str) -> int:
    """Insert a note; the number of rows inserted."""

    def work(connection: Connection) -> int:
        return connection.exec_driver_sql(insert(note)).rowcount

    return autocommit.run(work)


def insert_with_parameter(connection: Connection, note: str) -> None:
    """Insert a note; the statement's text is the same for all notes."""
    connection.exec_driver_sql("INSERT INTO schema_notes VALUES (%s)", (note,))


def test_statements_are_planned_once(autocommit: Autocommit, store: Store) -> None:
    """PostgreSQL uses generic plans, whatever the values are."""
    if not store.database.is_postgresql:
        pytest.skip("SQLite plans a statement when it is prepared")
    for number in range(10):  # the driver prepares a statement after a few runs
        autocommit.run(partial(insert_with_parameter, note=str(number)))
    plans = text("SELECT sum(generic_plans), sum(custom_plans) FROM pg_prepared_statements")
    generic, custom = autocommit.run(lambda connection: connection.execute(plans).one())
    assert generic > 0
    assert custom == 0


def write_concurrently(other: Store, autocommit: Autocommit, note: str) -> tuple[Future[int], int]:
    """Insert a note while another process inserts "b"; the result, and the number of attempts."""
    attempts: list[int] = []

    def attempt(connection: Connection) -> int:
        attempts.append(1)
        return connection.exec_driver_sql(insert(note)).rowcount

    with ThreadPoolExecutor(1) as pool:
        with other.database.transaction() as session:
            session.execute(text(insert("b")))
            writing = pool.submit(autocommit.run, attempt)
            eventually(lambda: attempts)
            assert not writing.done()
        wait([writing], 10)
    return writing, len(attempts)


def count(store: Store) -> int:
    """Number of notes that another connection sees."""
    with store.database.reading() as session:
        return int(session.execute(COUNT).scalar_one())


def test_each_statement_is_committed(store: Store, autocommit: Autocommit) -> None:
    """Others see it at once, and the next statement reuses the connection."""
    used: list[int] = []
    for number in range(3):
        assert write(autocommit, str(number)) == 1
        assert count(store) == number + 1
        autocommit.run(lambda c: used.append(id(c)))
    assert len(set(used)) == 1


def test_a_statement_that_fails_writes_nothing(store: Store, autocommit: Autocommit) -> None:
    """The error is raised, and the connection is reused for the next statement."""
    write(autocommit, "a")
    used: list[Connection] = []
    autocommit.run(used.append)
    with pytest.raises(DBAPIError):
        write(autocommit, "a")
    autocommit.run(used.append)
    assert used[0] is used[1]
    assert count(store) == 1
    assert write(autocommit, "b") == 1


def test_a_connection_is_not_reused_after_other_errors(autocommit: Autocommit) -> None:
    """Its state is unknown, so it is closed."""
    used: list[Connection] = []

    def fail(connection: Connection) -> None:
        used.append(connection)
        raise RuntimeError

    with pytest.raises(RuntimeError):
        autocommit.run(fail)
    autocommit.run(used.append)
    assert used[0] is not used[1]
    assert used[0].closed


def test_it_waits_for_another_writer(sqlite_autocommit: Autocommit, other: Store) -> None:
    """While another process holds the write lock, a statement waits, and then succeeds."""
    writing, attempts = write_concurrently(other, sqlite_autocommit, "a")
    assert (writing.result(0), attempts) == (1, 2)
    assert count(other) == 2


def test_it_waits_for_a_limited_time(sqlite_store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that stays locked is an error."""
    monkeypatch.setattr(sqlite, "BUSY_SECONDS", 0.1)
    autocommit = Autocommit(sqlite_store.database)
    with inbox_locked(sqlite_store.url), pytest.raises(OperationalError, match="locked"):
        autocommit.run(lambda connection: connection.exec_driver_sql("DELETE FROM inbox_events"))
    autocommit.close()


def test_a_statement_that_fails_after_waiting_releases_the_lock(
    sqlite_autocommit: Autocommit, other: Store
) -> None:
    """Its transaction is rolled back, and the connection commits the next statement."""
    writing, attempts = write_concurrently(other, sqlite_autocommit, "b")
    with pytest.raises(IntegrityError):
        writing.result(0)
    assert attempts == 2
    assert write(sqlite_autocommit, "c") == 1
    with other.database.transaction() as session:
        session.execute(text(insert("d")))
    assert count(other) == 3
