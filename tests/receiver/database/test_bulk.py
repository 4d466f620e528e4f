"""Many rows in one statement: what the driver is given is what the table's types would write."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from sqlalchemy import insert, select
from sqlalchemy.exc import DBAPIError

from receiver import clock
from receiver.database import bulk
from receiver.inbox import store as inbox
from receiver.inbox.store import INBOX, IncomingEvent
from tests.support.stores import Store

KEY = ("provider", "key")


def row(store: Store, key: str, **changed: object) -> dict[str, object]:
    """A row of the inbox with a value for every column."""
    incoming = IncomingEvent(
        provider="virtualsms", body=key.encode(), arrived_at=clock.now(), key=key
    )
    (entry,) = inbox.prepare(store.vault, [incoming])
    return {**entry.values, **changed}


def write(store: Store, *rows: dict[str, object]) -> int:
    """Insert them in a transaction of their own."""
    with store.database.transaction() as session:
        return bulk.insert_unless_taken(session.connection(), INBOX, rows, index=KEY)


def kept(store: Store, key: str) -> dict[str, Any]:
    """The row that holds a key, as the table's types read it."""
    with store.database.reading() as session:
        found = session.connection().execute(select(INBOX).where(INBOX.c.key == key))
        return dict(found.mappings().one())


def test_every_kind_of_value_comes_back(store: Store) -> None:
    """Text beyond ASCII, bytes, numbers, times of any zone and nothing at all."""
    east = datetime(2026, 1, 2, 3, 4, 5, 678_901, timezone(timedelta(hours=5)))
    full = row(
        store, "full", notes='ключ "🔑", \\{}', received_at=east, handled_at=east, wake_at=None,
        lease_until=datetime(1969, 12, 31, tzinfo=UTC), attempt=7, vanished=2, code_id="c",
    )  # fmt: skip
    empty = row(store, "empty", body=None)
    assert write(store, full, empty) == 2
    assert kept(store, "full") == full
    assert kept(store, "empty") == empty


def test_it_writes_what_the_tables_own_insert_writes(store: Store) -> None:
    """The bytes in the database are the same as SQLAlchemy's."""
    ours, theirs = row(store, "ours"), row(store, "theirs")
    theirs = {**ours, "id": theirs["id"], "key": "theirs"}
    write(store, ours)
    with store.database.transaction() as session:
        session.connection().execute(insert(INBOX), theirs)
    assert {**kept(store, "ours"), "id": "", "key": ""} == {
        **kept(store, "theirs"),
        "id": "",
        "key": "",
    }
    with store.database.reading() as session:
        stamps = session.connection().exec_driver_sql("SELECT stored_at, wake_at FROM inbox_events")
        assert len(set(map(tuple, stamps))) == 1


def test_a_taken_key_is_passed_over(store: Store) -> None:
    """Only what is new counts, and what was there stays as it was."""
    first, again, other = row(store, "a"), row(store, "a"), row(store, "b")
    assert write(store, first) == 1
    assert write(store, again, other) == 1
    assert kept(store, "a") == first
    assert kept(store, "b") == other


def test_a_taken_id_is_an_error_of_the_database(store: Store) -> None:
    """Any other conflict is one, in SQLAlchemy's words, and nothing of the batch is written."""
    first = row(store, "a")
    write(store, first)
    with pytest.raises(DBAPIError):
        write(store, row(store, "b"), row(store, "c", id=first["id"]))
    with store.database.reading() as session:
        assert len(session.connection().execute(select(INBOX)).all()) == 1


def test_new_rows_are_told_by_their_ids(store: Store) -> None:
    """Whichever of their unique keys it is that others have."""
    first, second, third = (row(store, key) for key in "abc")
    with store.database.transaction() as session:
        connection = session.connection()
        assert bulk.insert_new(connection, INBOX, []) == set()
        assert bulk.insert_new(connection, INBOX, [first]) == {first["id"]}
        again = [row(store, "a"), second, {**third, "id": first["id"]}, third]
        assert bulk.insert_new(connection, INBOX, again) == {second["id"], third["id"]}
    assert kept(store, "a") == first


def test_many_rows_are_written_in_parts(store: Store) -> None:
    """More than fit into a statement: each is inserted, and each is changed."""
    rows = [row(store, f"{number}") for number in range(bulk.MOST_ROWS + 3)]
    changes = [
        {"id": each["id"], "attempt": 0, "notes": each["key"], "handled_at": clock.now()}
        for each in rows
    ]
    with store.database.transaction() as session:
        connection = session.connection()
        assert len(bulk.insert_new(connection, INBOX, rows)) == len(rows)
        assert bulk.update(connection, INBOX, changes, keys=("id", "attempt")) == len(rows)
    for each, change in zip(rows, changes, strict=True):
        assert kept(store, str(each["key"])) == {**each, **change}


def test_only_rows_with_the_keys_are_changed(store: Store) -> None:
    """And among them only those of which the condition holds."""
    first, second, third = (row(store, key, attempt=1) for key in "abc")
    write(store, first, second, {**third, "source": "elsewhere"})
    changes = [
        {"id": first["id"], "attempt": 1, "error": "one", "body": None},
        {"id": second["id"], "attempt": 2, "error": "two", "body": b"two"},
        {"id": third["id"], "attempt": 1, "error": "three", "body": b"three"},
    ]
    with store.database.transaction() as session:
        done = bulk.update(
            session.connection(), INBOX, changes,
            keys=("id", "attempt"), where="source = 'webhook'",
        )  # fmt: skip
    assert done == 1
    assert kept(store, "a") == {**first, "error": "one", "body": None}
    assert kept(store, "b") == second
    assert kept(store, "c") == {**third, "source": "elsewhere"}
