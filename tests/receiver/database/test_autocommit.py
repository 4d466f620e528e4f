"""Statements that commit by themselves, beside others who write."""

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

COUNT = text("SELECT count(*) FROM schema_notes")


@contextmanager
def opened(store: Store) -> Iterator[Autocommit]:
    """Of a database with a table that holds texts."""
    with store.database.transaction() as session:
        session.execute(text("CREATE TABLE schema_notes (note text PRIMARY KEY)"))
    made = Autocommit(store.database)
    yield made
    made.close()


@pytest.fixture
def autocommit(store: Store) -> Iterator[Autocommit]:
    """On either server."""
    with opened(store) as made:
        yield made


@pytest.fixture
def on_sqlite(sqlite_store: Store) -> Iterator[Autocommit]:
    """On the one that has a single writer."""
    with opened(sqlite_store) as made:
        yield made


@pytest.fixture
def other(sqlite_store: Store) -> Iterator[Store]:
    """What another process has of the same file."""
    made = open_store(sqlite_store.url)
    yield made
    made.database.dispose()


def insert(note: str) -> str:
    """The statement that writes one."""
    return f"INSERT INTO schema_notes VALUES ('{note}')"


def write(autocommit: Autocommit, note: str) -> int:
    """Write one; how many were written."""

    def work(connection: Connection) -> int:
        return connection.exec_driver_sql(insert(note)).rowcount

    return autocommit.run(work)


def note_down(connection: Connection, note: str) -> None:
    """Write one, with a statement that is the same for all."""
    connection.exec_driver_sql("INSERT INTO schema_notes VALUES (%s)", (note,))


def test_its_statements_are_planned_once(autocommit: Autocommit, store: Store) -> None:
    """PostgreSQL keeps their plans, however different the values are."""
    if not store.database.is_postgresql:
        pytest.skip("SQLite plans a statement when it is prepared")
    for number in range(10):  # the driver prepares what is run again and again
        autocommit.run(partial(note_down, note=str(number)))
    plans = text("SELECT sum(generic_plans), sum(custom_plans) FROM pg_prepared_statements")
    generic, custom = autocommit.run(lambda connection: connection.execute(plans).one())
    assert generic > 0
    assert custom == 0


def write_beside(other: Store, autocommit: Autocommit, note: str) -> tuple[Future[int], int]:
    """Write one while another process writes "b"; what became of it, and at which try."""
    tries: list[int] = []

    def attempt(connection: Connection) -> int:
        tries.append(1)
        return connection.exec_driver_sql(insert(note)).rowcount

    with ThreadPoolExecutor(1) as pool:
        with other.database.transaction() as session:
            session.execute(text(insert("b")))
            writing = pool.submit(autocommit.run, attempt)
            eventually(lambda: tries)
            assert not writing.done()
        wait([writing], 10)
    return writing, len(tries)


def count(store: Store) -> int:
    """How many another connection sees."""
    with store.database.reading() as session:
        return int(session.execute(COUNT).scalar_one())


def test_a_statement_is_committed_by_itself(store: Store, autocommit: Autocommit) -> None:
    """Others see it at once, and the next one uses the same connection."""
    used: list[int] = []
    for number in range(3):
        assert write(autocommit, str(number)) == 1
        assert count(store) == number + 1
        autocommit.run(lambda c: used.append(id(c)))
    assert len(set(used)) == 1


def test_a_statement_that_fails_writes_nothing(store: Store, autocommit: Autocommit) -> None:
    """Its error is the caller's, and the next statement is none the worse."""
    write(autocommit, "a")
    used: list[Connection] = []
    autocommit.run(used.append)
    with pytest.raises(DBAPIError):
        write(autocommit, "a")
    autocommit.run(used.append)
    assert used[0] is used[1]
    assert count(store) == 1
    assert write(autocommit, "b") == 1


def test_a_connection_that_failed_is_not_used_again(autocommit: Autocommit) -> None:
    """Whatever state it is in, nobody inherits it."""
    used: list[Connection] = []

    def fail(connection: Connection) -> None:
        used.append(connection)
        raise RuntimeError

    with pytest.raises(RuntimeError):
        autocommit.run(fail)
    autocommit.run(used.append)
    assert used[0] is not used[1]
    assert used[0].closed


def test_it_waits_for_another_writer(on_sqlite: Autocommit, other: Store) -> None:
    """While another process holds the file, a statement waits for its turn, and then is done."""
    writing, tries = write_beside(other, on_sqlite, "a")
    assert (writing.result(0), tries) == (1, 2)
    assert count(other) == 2


def test_it_does_not_wait_for_ever(sqlite_store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that is never free is said to be locked."""
    monkeypatch.setattr(sqlite, "BUSY_SECONDS", 0.1)
    autocommit = Autocommit(sqlite_store.database)
    with inbox_locked(sqlite_store.url), pytest.raises(OperationalError, match="locked"):
        autocommit.run(lambda connection: connection.exec_driver_sql("DELETE FROM inbox_events"))
    autocommit.close()


def test_a_statement_that_fails_in_its_turn_leaves_the_file_free(
    on_sqlite: Autocommit, other: Store
) -> None:
    """What it was begun with is ended, and what comes next on its connection is committed."""
    writing, tries = write_beside(other, on_sqlite, "b")
    with pytest.raises(IntegrityError):
        writing.result(0)
    assert tries == 2
    assert write(on_sqlite, "c") == 1
    with other.database.transaction() as session:
        session.execute(text(insert("d")))
    assert count(other) == 3
