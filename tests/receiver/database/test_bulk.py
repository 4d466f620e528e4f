"""Bulk statements: the driver gets the same values as the table's types would write."""

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

pytestmark = pytest.mark.both_databases

KEY = ("provider", "key")


def row(store: Store, key: str, **changed: object) -> dict[str, object]:
    """A row of the inbox with a value for every column."""
    incoming = IncomingEvent(
        provider="virtualsms", body=key.encode(), arrived_at=clock.now(), key=key
    )
    (prepared,) = inbox.prepare(store.vault, [incoming])
    return {**prepared.values, **changed}


def write(store: Store, *rows: dict[str, object]) -> int:
    """Insert rows in one transaction; how many were inserted."""
    with store.database.transaction() as session:
        return bulk.insert_unless_taken(session.connection(), INBOX, rows, index=KEY)


def stored(store: Store, key: str) -> dict[str, Any]:
    """The row with this event key, as the table's types read it."""
    with store.database.reading() as session:
        found = session.connection().execute(select(INBOX).where(INBOX.c.key == key))
        return dict(found.mappings().one())


def test_all_value_types_are_stored(store: Store) -> None:
    """Non-ASCII text, bytes, numbers, times of any zone and null."""
    east = datetime(2026, 1, 2, 3, 4, 5, 678_901, timezone(timedelta(hours=5)))
    full = row(
        store, "full", notes='ключ "🔑", \\{}', received_at=east, handled_at=east, wake_at=None,
        lease_until=datetime(1969, 12, 31, tzinfo=UTC), attempt=7, vanished=2, code_id="c",
    )  # fmt: skip
    empty = row(store, "empty", body=None)
    assert write(store, full, empty) == 2
    assert stored(store, "full") == full
    assert stored(store, "empty") == empty


def test_it_writes_the_same_as_sqlalchemy(store: Store) -> None:
    """The stored values equal those of SQLAlchemy's own insert."""
    ours, theirs = row(store, "ours"), row(store, "theirs")
    theirs = {**ours, "id": theirs["id"], "key": "theirs"}
    write(store, ours)
    with store.database.transaction() as session:
        session.connection().execute(insert(INBOX), theirs)
    assert {**stored(store, "ours"), "id": "", "key": ""} == {
        **stored(store, "theirs"),
        "id": "",
        "key": "",
    }
    with store.database.reading() as session:
        stamps = session.connection().exec_driver_sql("SELECT stored_at, wake_at FROM inbox_events")
        assert len(set(map(tuple, stamps))) == 1


def test_a_taken_key_is_skipped(store: Store) -> None:
    """Only new rows are counted, and existing rows do not change."""
    first, again, other = row(store, "a"), row(store, "a"), row(store, "b")
    assert write(store, first) == 1
    assert write(store, again, other) == 1
    assert stored(store, "a") == first
    assert stored(store, "b") == other


def test_another_conflict_is_an_error(store: Store) -> None:
    """A taken id raises SQLAlchemy's error, and no row of the batch is written."""
    first = row(store, "a")
    write(store, first)
    with pytest.raises(DBAPIError):
        write(store, row(store, "b"), row(store, "c", id=first["id"]))
    with store.database.reading() as session:
        assert len(session.connection().execute(select(INBOX)).all()) == 1


def test_ids_of_new_rows_are_returned(store: Store) -> None:
    """Rows are skipped for a conflict on any unique key."""
    first, second, third = (row(store, key) for key in "abc")
    with store.database.transaction() as session:
        connection = session.connection()
        assert bulk.insert_new(connection, INBOX, []) == set()
        assert bulk.insert_new(connection, INBOX, [first]) == {first["id"]}
        again = [row(store, "a"), second, {**third, "id": first["id"]}, third]
        assert bulk.insert_new(connection, INBOX, again) == {second["id"], third["id"]}
    assert stored(store, "a") == first


def test_many_rows_are_written_in_parts(store: Store) -> None:
    """Rows beyond one statement are all inserted and all updated."""
    rows = [row(store, f"{number}") for number in range(bulk.MAX_ROWS + 3)]
    changes = [
        {"id": each["id"], "attempt": 0, "notes": each["key"], "handled_at": clock.now()}
        for each in rows
    ]
    with store.database.transaction() as session:
        connection = session.connection()
        assert len(bulk.insert_new(connection, INBOX, rows)) == len(rows)
        assert bulk.update(connection, INBOX, changes, keys=("id", "attempt")) == len(rows)
    for each, change in zip(rows, changes, strict=True):
        assert stored(store, str(each["key"])) == {**each, **change}


def test_only_rows_with_the_keys_are_updated(store: Store) -> None:
    """Of those, only rows that meet the condition are updated."""
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
    assert stored(store, "a") == {**first, "error": "one", "body": None}
    assert stored(store, "b") == second
    assert stored(store, "c") == {**third, "source": "elsewhere"}
