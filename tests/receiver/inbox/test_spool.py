"""The spool: durable, drained in order, each event once, from live and dead processes."""

from __future__ import annotations

import pickle
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlmodel import select

from receiver import clock
from receiver.errors import StoreUnavailable
from receiver.inbox import spool as spool_files
from receiver.inbox import store as inbox
from receiver.inbox.spool import EventAlias, Spool
from receiver.inbox.store import InboxEvent, InboxRow, IncomingEvent
from receiver.vault import index_key
from tests.receiver.conftest import Log
from tests.support.stores import Store

pytestmark = pytest.mark.both_databases


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A directory that does not exist yet."""
    return tmp_path / "spool"


@pytest.fixture
def spool(folder: Path) -> Iterator[Spool]:
    """The spool of one process."""
    opened = Spool(folder)
    yield opened
    opened.close()


def prepared(store: Store, *keys: str, body: bytes = b'{"a": 1}') -> list[InboxRow]:
    """Rows of authentic events with these keys."""
    return inbox.prepare(
        store.vault,
        [
            IncomingEvent(provider="virtualsms", body=body, arrived_at=clock.now(), key=key)
            for key in keys
        ],
    )


def inbox_rows(store: Store) -> list[InboxEvent]:
    """The inbox's rows, oldest first."""
    with store.database.reading() as session:
        return list(session.exec(select(InboxEvent).order_by(InboxEvent.id)))


def aliases(store: Store) -> dict[str, str]:
    """The alias ids, mapped to the first ids."""
    with store.database.reading() as session:
        return {row.id: row.first_id for row in session.exec(select(EventAlias))}


def drain(spool: Spool, store: Store) -> list[str]:
    """Drain the spool; the ids that were new in the database."""
    return [new for batch in spool.drain(store.database) for new in batch]


def test_spooled_events_are_drained_in_order(store: Store, spool: Spool, folder: Path) -> None:
    """Hundreds of events keep their ids, sealed bodies and times, and none is left behind."""
    spooled = prepared(store, *(f"evt_{number}" for number in range(450)))
    for start in range(0, 450, 90):
        spool.store(spooled[start : start + 90])
    assert spool_files.depth(folder) == 450
    assert drain(spool, store) == [row.id for row in spooled]
    assert spool_files.depth(folder) == 0
    rows = inbox_rows(store)
    assert [row.id for row in rows] == [row.id for row in spooled]
    assert inbox.open_body(store.vault, rows[7]) == b'{"a": 1}'
    assert rows[7].stored_at == spooled[7].values["stored_at"]
    assert rows[7].state == "pending"
    assert rows[7].wake_at is not None


def test_draining_again_changes_nothing(store: Store, spool: Spool) -> None:
    """A crash between the database's commit and the file's repeats the move, without effect."""
    first = prepared(store, "evt_1", "evt_2")
    spool.store(first)
    with store.database.transaction() as session:
        inbox.store(session, first)
    assert drain(spool, store) == [row.id for row in first]
    assert [row.id for row in inbox_rows(store)] == [row.id for row in first]
    assert aliases(store) == {}


def test_a_duplicate_found_while_draining_gets_an_alias(store: Store, spool: Spool) -> None:
    """An event that the inbox has already stays one row, and an alias maps the other id to it."""
    (spooled,) = prepared(store, "evt_1")
    spool.store([spooled])
    (direct,) = prepared(store, "evt_1")
    with store.database.transaction() as session:
        inbox.store(session, [direct])
    assert drain(spool, store) == []
    assert [row.id for row in inbox_rows(store)] == [direct.id]
    assert aliases(store) == {spooled.id: direct.id}


def test_another_body_under_a_known_key_is_quarantined(store: Store, spool: Spool) -> None:
    """The inbox quarantines conflicting bodies from the spool too."""
    (direct,) = prepared(store, "evt_1")
    with store.database.transaction() as session:
        inbox.store(session, [direct])
    (other,) = prepared(store, "evt_1", body=b'{"a": 2}')
    spool.store([other])
    assert drain(spool, store) == [other.id]
    assert [(row.id, row.state) for row in inbox_rows(store)] == [
        (direct.id, "pending"),
        (other.id, "quarantined"),
    ]


def test_duplicates_are_detected_within_the_file(store: Store, spool: Spool) -> None:
    """A provider that repeats an event during the outage gets the first id."""
    (first,) = spool.store(prepared(store, "evt_1"))
    (again,) = spool.store(prepared(store, "evt_1"))
    assert not first.duplicate
    assert (again.id, again.duplicate) == (first.id, True)


DAY = datetime(2026, 3, 1, 12, tzinfo=UTC)


def deposits(store: Store, *hours: float) -> list[InboxRow]:
    """Rows of equal balance events without an id or a time, at these hours."""
    return inbox.prepare(
        store.vault,
        [
            IncomingEvent(
                provider="virtualsms",
                body=b'{"event": "balance.low"}',
                arrived_at=DAY + timedelta(hours=each),
                may_recur=True,
            )
            for each in hours
        ],
    )


def test_equal_bodies_are_two_events_after_16_hours_in_the_spool_too(
    store: Store, spool: Spool
) -> None:
    """What the file holds is told apart when it is stored, and again when it is drained."""
    first, repeated, second = deposits(store, 0, 15, 17)
    stored = [each for row in (first, repeated, second) for each in spool.store([row])]
    assert [each.duplicate for each in stored] == [False, True, False]
    assert drain(spool, store) == [first.id, second.id]
    assert drain(spool, store) == []


@pytest.mark.parametrize("hours", [-15, -1, 1, 15])
def test_a_spooled_repetition_is_found_in_the_database(
    store: Store, spool: Spool, hours: float
) -> None:
    """On either side of the one that is there; the id that was acknowledged leads to that one."""
    (direct,) = deposits(store, 0)
    with store.database.transaction() as session:
        inbox.store(session, [direct])
    near, far = deposits(store, hours, hours * 1.2 + (hours > 0 or -1) * 16)
    spool.store([near])
    spool.store([far])
    assert drain(spool, store) == [far.id]
    assert aliases(store) == {near.id: direct.id}


_LEAVE = """
import os, pickle, signal, sys
from receiver.inbox.spool import Spool
folder, left = pickle.load(sys.stdin.buffer)
Spool(folder).store(left)
os.kill(os.getpid(), signal.SIGKILL)
"""


def abandon(folder: Path, left: Sequence[InboxRow]) -> None:
    """Spool events in another process, and kill it."""
    child = subprocess.run(
        [sys.executable, "-c", _LEAVE], input=pickle.dumps((folder, left)), timeout=30, check=False
    )
    assert child.returncode == -signal.SIGKILL


def test_files_of_dead_processes_are_drained(
    store: Store, spool: Spool, folder: Path, log: Log
) -> None:
    """Another process drains and removes the file of a killed one, also of an earlier version.

    An unreadable file is kept and logged.
    """
    broken = folder / "00000000000000000000000000.db"
    broken.write_bytes(b"no database at all" * 100)
    left = prepared(store, "evt_1", "evt_2")
    abandon(folder, left)
    assert spool._own_file is not None
    (path,) = [path for path in folder.glob("*.db") if path not in (broken, spool._own_file.path)]
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("ALTER TABLE inbox_events DROP COLUMN notes")
    assert spool_files.depth(folder) == 2
    assert drain(spool, store) == [row.id for row in left]
    assert {*folder.glob("*.db")} == {broken, spool._own_file.path}
    (line,) = log.of("spool.file_broken")
    assert broken.name in line["reason"]


def test_the_file_of_a_live_process_is_skipped(store: Store, spool: Spool, folder: Path) -> None:
    """While its process is alive, no other process drains a file."""
    other = Spool(folder)
    other.store(prepared(store, "evt_1"))
    assert drain(spool, store) == []
    assert spool_files.depth(folder) == 1
    assert len(drain(other, store)) == 1
    other.close()


def test_an_event_that_the_database_refuses_does_not_block_others(
    store: Store, spool: Spool, folder: Path, log: Log
) -> None:
    """It stays in the spool and is logged; earlier and later events are drained."""
    if not store.database.is_postgresql:
        pytest.skip("SQLite stores a NUL in text")
    first, bad, last = prepared(store, "evt_1", "evt\x002", "evt_3")
    spool.store([first, bad, last])
    assert drain(spool, store) == [first.id, last.id]
    assert [line["event_id"] for line in log.of("spool.event_refused")] == [bad.id]
    spool.store(prepared(store, "evt_4"))
    assert len(drain(spool, store)) == 1
    assert spool_files.depth(folder) == 1
    assert spool.is_empty()
    spool.reopen()
    assert drain(spool, store) == []
    assert [line["event_id"] for line in log.of("spool.event_refused")] == [bad.id] * 2


def test_a_full_file_refuses(store: Store, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full file refuses events and keeps the old ones; draining makes room."""
    monkeypatch.setattr(spool_files, "MAX_FILE_BYTES", 400_000)
    spool = Spool(folder)

    def fill() -> int:
        for number in range(1_000):
            try:
                spool.store(prepared(store, f"evt_{number}", body=b"x" * 10_000))
            except StoreUnavailable:
                return number
        return 1_000

    accepted = fill()
    assert 10 < accepted < 40
    assert spool_files.depth(folder) == accepted
    assert len(drain(spool, store)) == accepted
    spool.store(prepared(store, "evt_after"))
    assert len(drain(spool, store)) == 1
    spool.close()


def test_closing_removes_an_empty_file(folder: Path) -> None:
    """A process that spooled nothing leaves no file behind."""
    Spool(folder).close()
    assert list(folder.iterdir()) == []


def test_closing_keeps_a_file_with_events(store: Store, folder: Path) -> None:
    """The next process drains the events of one that stopped during an outage."""
    first = Spool(folder)
    spooled = prepared(store, "evt_1")
    first.store(spooled)
    first.close()
    second = Spool(folder)
    assert drain(second, store) == [spooled[0].id]
    second.close()


def test_a_spool_that_cannot_be_opened_is_tried_again(
    store: Store, tmp_path: Path, log: Log
) -> None:
    """It says so and refuses events; when the cause is gone, it stores them, and saves the key."""
    (tmp_path / "spool").write_text("")
    spool = Spool(tmp_path / "spool", b"sealed")
    assert not spool.is_open
    assert "SPOOL_DIR" in log.of("spool.not_opened")[0]["reason"]
    assert spool.reason == log.of("spool.not_opened")[0]["reason"]
    with pytest.raises(StoreUnavailable):
        spool.store(prepared(store, "evt_1"))
    assert drain(spool, store) == []

    (tmp_path / "spool").unlink()
    spool.reopen()
    assert (spool.is_open, spool.reason) == (True, None)
    spool.store(prepared(store, "evt_1"))
    assert index_key.load_copy(tmp_path / "spool") == b"sealed"
    assert len(drain(spool, store)) == 1
    spool.close()


def test_a_file_that_is_damaged_while_it_is_used_is_replaced(
    store: Store, spool: Spool, folder: Path
) -> None:
    """Events go to a new file; the damaged one stays, and looking says that it cannot be read."""
    assert spool._own_file is not None
    path = spool._own_file.path
    spool._own_file._database.dispose()
    for each in folder.glob(f"{path.name}*"):
        each.write_bytes(b"no database at all" * 1_000)
    with pytest.raises(StoreUnavailable):
        spool.store(prepared(store, "evt_1"))
    assert spool.reason == "damaged"

    spool.reopen()
    assert spool.reason is None
    spool.store(prepared(store, "evt_2"))
    assert spool_files.look(folder).unreadable == [path.name]
    assert len(drain(spool, store)) == 1


def test_looking_creates_no_file(store: Store, folder: Path) -> None:
    """Neither beside the file of a live process, nor beside a closed one, nor where nothing is."""
    assert spool_files.look(folder).depth == 0
    assert not folder.exists()
    spool = Spool(folder)
    spool.store(prepared(store, "evt_1"))
    before = sorted(folder.iterdir())
    assert spool_files.look(folder).depth == 1
    assert sorted(folder.iterdir()) == before
    spool.close()
    before = sorted(folder.iterdir())
    assert spool_files.look(folder).depth == 1
    assert spool_files.reason_unusable(folder) is None
    assert sorted(folder.iterdir()) == before
    with closing(sqlite3.connect(before[0], isolation_level=None)) as other:
        other.execute("PRAGMA locking_mode=EXCLUSIVE")
        other.execute("BEGIN EXCLUSIVE")
        assert spool_files.look(folder).unreadable == [before[0].name]


def test_bodies_are_sealed_in_the_file(store: Store, spool: Spool, folder: Path) -> None:
    """No file in the directory contains a readable body."""
    spool.store(prepared(store, "evt_1", body=b'{"code": "canary-483921"}'))
    assert all(b"canary-483921" not in path.read_bytes() for path in folder.iterdir())


def test_the_sealed_index_key_has_a_copy(folder: Path) -> None:
    """The copy is written once, loaded again, and replaced by another database's."""
    assert index_key.load_copy(folder) is None
    index_key.save_copy(folder, b"one")
    index_key.save_copy(folder, b"one")
    assert index_key.load_copy(folder) == b"one"
    index_key.save_copy(folder, b"two")
    assert index_key.load_copy(folder) == b"two"
    assert [path.name for path in folder.iterdir()] == ["index-key"]
