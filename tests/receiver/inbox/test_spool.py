"""The spool: durable, drained in order, each event once, whoever left it behind."""

from __future__ import annotations

import pickle
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

import pytest
from sqlmodel import select

from receiver import clock
from receiver.errors import ConfigurationError, StoreUnavailable
from receiver.inbox import spool as spool_files
from receiver.inbox import store as inbox
from receiver.inbox.spool import EventAlias, Spool
from receiver.inbox.store import InboxEvent, InboxRow, IncomingEvent
from receiver.vault import index_key
from tests.receiver.conftest import Log
from tests.support.stores import Store


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A directory that does not exist yet."""
    return tmp_path / "spool"


@pytest.fixture
def spool(folder: Path) -> Iterator[Spool]:
    """The spool of one process."""
    made = Spool(folder)
    yield made
    made.close()


def entries(store: Store, *keys: str, body: bytes = b'{"a": 1}') -> list[InboxRow]:
    """Authentic events under these keys, ready to be stored."""
    return inbox.prepare(
        store.vault,
        [
            IncomingEvent(provider="virtualsms", body=body, arrived_at=clock.now(), key=key)
            for key in keys
        ],
    )


def kept(store: Store) -> list[InboxEvent]:
    """The inbox's rows, oldest first."""
    with store.database.reading() as session:
        return list(session.exec(select(InboxEvent).order_by(InboxEvent.id)))


def aliases(store: Store) -> dict[str, str]:
    """Which ids lead to which."""
    with store.database.reading() as session:
        return {row.id: row.first_id for row in session.exec(select(EventAlias))}


def drain(spool: Spool, store: Store) -> list[str]:
    """Drain everything; the ids that were new."""
    return [new for batch in spool.drain(store.database) for new in batch]


def test_what_took_shelter_is_drained_in_order(store: Store, spool: Spool, folder: Path) -> None:
    """Hundreds of events arrive with their ids, sealed bodies and clocks, and none is left."""
    sheltered = entries(store, *(f"evt_{number}" for number in range(450)))
    for start in range(0, 450, 90):
        spool.store(sheltered[start : start + 90])
    assert spool_files.depth(folder) == 450
    assert drain(spool, store) == [entry.id for entry in sheltered]
    assert spool_files.depth(folder) == 0
    rows = kept(store)
    assert [row.id for row in rows] == [entry.id for entry in sheltered]
    assert inbox.open_body(store.vault, rows[7]) == b'{"a": 1}'
    assert rows[7].stored_at == sheltered[7].values["stored_at"]
    assert rows[7].state == "pending"
    assert rows[7].wake_at is not None


def test_draining_again_changes_nothing(store: Store, spool: Spool) -> None:
    """A crash between the database's commit and the file's repeats the move, without effect."""
    first = entries(store, "evt_1", "evt_2")
    spool.store(first)
    with store.database.transaction() as session:
        inbox.store(session, first)
    assert drain(spool, store) == [entry.id for entry in first]
    assert [row.id for row in kept(store)] == [entry.id for entry in first]
    assert aliases(store) == {}


def test_a_duplicate_found_late_leads_to_the_first(store: Store, spool: Spool) -> None:
    """What reached the inbox by another way meanwhile stays one row, and the other id finds it."""
    (sheltered,) = entries(store, "evt_1")
    spool.store([sheltered])
    (direct,) = entries(store, "evt_1")
    with store.database.transaction() as session:
        inbox.store(session, [direct])
    assert drain(spool, store) == []
    assert [row.id for row in kept(store)] == [direct.id]
    assert aliases(store) == {sheltered.id: direct.id}


def test_another_body_under_a_known_key_is_quarantined(store: Store, spool: Spool) -> None:
    """The rule of the inbox holds for what comes out of the spool."""
    (direct,) = entries(store, "evt_1")
    with store.database.transaction() as session:
        inbox.store(session, [direct])
    (other,) = entries(store, "evt_1", body=b'{"a": 2}')
    spool.store([other])
    assert drain(spool, store) == [other.id]
    assert [(row.id, row.state) for row in kept(store)] == [
        (direct.id, "pending"),
        (other.id, "quarantined"),
    ]


def test_duplicates_are_known_within_the_file(store: Store, spool: Spool) -> None:
    """A provider that repeats itself during the outage is told the first id."""
    (first,) = spool.store(entries(store, "evt_1"))
    (again,) = spool.store(entries(store, "evt_1"))
    assert not first.duplicate
    assert (again.id, again.duplicate) == (first.id, True)


_LEAVE = """
import os, pickle, signal, sys
from receiver.inbox.spool import Shelter
folder, left = pickle.load(sys.stdin.buffer)
Shelter(folder).store(left)
os.kill(os.getpid(), signal.SIGKILL)
"""


def abandon(folder: Path, left: Sequence[InboxRow]) -> None:
    """Have another process spool events and be killed."""
    died = subprocess.run(
        [sys.executable, "-c", _LEAVE], input=pickle.dumps((folder, left)), timeout=30, check=False
    )
    assert died.returncode == -signal.SIGKILL


def test_the_files_of_dead_processes_are_adopted(store: Store, spool: Spool, folder: Path) -> None:
    """What a killed process left is drained by another, and its file removed."""
    left = entries(store, "evt_1", "evt_2")
    abandon(folder, left)
    assert spool_files.depth(folder) == 2
    assert drain(spool, store) == [entry.id for entry in left]
    assert len(list(folder.glob("*.db"))) == 1


def test_the_file_of_a_living_process_is_left_alone(
    store: Store, spool: Spool, folder: Path
) -> None:
    """Only its holder drains a file."""
    other = Spool(folder)
    other.store(entries(store, "evt_1"))
    assert drain(spool, store) == []
    assert spool_files.depth(folder) == 1
    assert len(drain(other, store)) == 1
    other.close()


def test_a_file_of_an_earlier_version_is_drained(store: Store, spool: Spool, folder: Path) -> None:
    """A column that has come since is added, so that an upgrade during an outage loses nothing."""
    left = entries(store, "evt_1")
    abandon(folder, left)
    (path,) = [path for path in folder.glob("*.db") if path != spool._own.path]
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("ALTER TABLE inbox_events DROP COLUMN notes")
    assert drain(spool, store) == [left[0].id]


def test_a_broken_file_holds_nobody_up(store: Store, spool: Spool, folder: Path, log: Log) -> None:
    """What a dead process left unreadable stays, is named in the log, and the others go on."""
    (folder / "00000000000000000000000000.db").write_bytes(b"no database at all" * 100)
    left = entries(store, "evt_1")
    abandon(folder, left)
    assert drain(spool, store) == [left[0].id]
    (line,) = log.of("spool.file_broken")
    assert "00000000000000000000000000.db" in line["reason"]
    assert (folder / "00000000000000000000000000.db").exists()


def test_an_event_that_the_database_refuses_holds_nobody_up(
    store: Store, spool: Spool, folder: Path, log: Log
) -> None:
    """It stays in the spool and the log names it; its neighbours go on, and later ones too."""
    if not store.database.is_postgresql:
        pytest.skip("SQLite takes a NUL in text")
    good, bad, better = entries(store, "evt_1", "evt\x002", "evt_3")
    spool.store([good, bad, better])
    assert drain(spool, store) == [good.id, better.id]
    assert [line["event_id"] for line in log.of("spool.event_refused")] == [bad.id]
    spool.store(entries(store, "evt_4"))
    assert len(drain(spool, store)) == 1
    assert spool_files.depth(folder) == 1


def test_a_full_file_refuses(store: Store, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond its size nothing is taken, what is in it stays, and there is room after a drain."""
    monkeypatch.setattr(spool_files, "LARGEST_FILE", 400_000)
    spool = Spool(folder)

    def fill() -> int:
        for number in range(1_000):
            try:
                spool.store(entries(store, f"evt_{number}", body=b"x" * 10_000))
            except StoreUnavailable:
                return number
        return 1_000

    taken = fill()
    assert 10 < taken < 40
    assert spool_files.depth(folder) == taken
    assert len(drain(spool, store)) == taken
    spool.store(entries(store, "evt_after"))
    assert len(drain(spool, store)) == 1
    spool.close()


def test_an_empty_file_is_removed_at_the_end(folder: Path) -> None:
    """A process that never needed its file leaves nothing behind."""
    Spool(folder).close()
    assert list(folder.iterdir()) == []


def test_a_file_with_events_stays(store: Store, folder: Path) -> None:
    """A process that stops in an outage leaves its events to the next one."""
    first = Spool(folder)
    sheltered = entries(store, "evt_1")
    first.store(sheltered)
    first.close()
    second = Spool(folder)
    assert drain(second, store) == [sheltered[0].id]
    second.close()


def test_a_directory_that_cannot_be_written_is_said_at_start(tmp_path: Path) -> None:
    """A file in the directory's place is found before the first outage finds it."""
    (tmp_path / "spool").write_text("")
    with pytest.raises(ConfigurationError, match="SPOOL_DIR"):
        Spool(tmp_path / "spool")


def test_bodies_are_sealed_in_the_file(store: Store, spool: Spool, folder: Path) -> None:
    """Nothing of a body can be read in the directory."""
    spool.store(entries(store, "evt_1", body=b'{"code": "canary-483921"}'))
    assert all(b"canary-483921" not in path.read_bytes() for path in folder.iterdir())


def test_the_index_key_is_kept_sealed(folder: Path) -> None:
    """It is written once, found again, and replaced by another database's."""
    assert index_key.kept(folder) is None
    index_key.keep(folder, b"one")
    index_key.keep(folder, b"one")
    assert index_key.kept(folder) == b"one"
    index_key.keep(folder, b"two")
    assert index_key.kept(folder) == b"two"
    assert [path.name for path in folder.iterdir()] == ["index-key"]
