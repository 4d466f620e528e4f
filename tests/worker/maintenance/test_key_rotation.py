"""Key rotation: all values are re-encrypted online, and a kill loses nothing."""

from __future__ import annotations

import base64
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import insert
from sqlmodel import col, select
from ulid import ULID

from receiver import clock
from receiver.errors import ConfigurationError
from receiver.inbox import store as inbox
from receiver.inbox.rejections import RejectedRequest
from receiver.inbox.spool import Spool, look
from receiver.inbox.store import INBOX, InboxEvent, IncomingEvent
from receiver.vault import index_key
from receiver.vault.sealing import key_id
from tests.support import webhooks
from tests.support.stores import KEY, Store
from tests.support.waiting import eventually
from tests.support.webhooks import virtualsms_v1
from tests.worker.support import (
    World,
    all_rows,
    change,
    fetch,
    handle,
    in_files,
    on_postgresql,
    on_sqlite,
)
from worker.maintenance import key_rotation
from worker.orders import codes
from worker.schema.models import Code

pytestmark = pytest.mark.both_databases

NEW = b"n" * 32
OTHER = b"o" * 32
COLUMNS = {
    *("inbox_events.body", "codes.code", "codes.text", "codes.phone_number"),
    *("orders.phone_number", "order_numbers.phone_number", "rejected_requests.origin"),
    "vault_keys.value",
}


def rotate(store: Store, *keys: bytes, folder: Path | None = None) -> list[key_rotation.Step]:
    """Rotate to the first of ``keys``."""
    return list(key_rotation.rotate(store.database, keys, folder))


def counts(store: Store) -> Mapping[bytes, int]:
    """Number of values by key id."""
    found: dict[bytes, int] = {}
    for each in key_rotation.count(store.database):
        key = bytes.fromhex(each.key)
        found[key] = found.get(key, 0) + each.values
    return found


def spooled(key: str, provider: str = "virtualsms", body: bytes = b"{}") -> IncomingEvent:
    """An event before it is stored."""
    return IncomingEvent(provider=provider, body=body, arrived_at=clock.now(), key=key)


def fill(store: Store, number: int) -> None:
    """Store events sealed with the first key, ten thousand per statement."""
    for start in range(0, number, 10_000):
        each = range(start, min(number, start + 10_000))
        events = [spooled(f"{n}", body=b'{"n": %d}' % n) for n in each]
        rows = [dict(entry.values) for entry in inbox.prepare(store.vault, events)]
        with store.database.transaction() as session:
            session.connection().execute(insert(INBOX), rows)


@pytest.fixture
def full_store(world: World) -> Store:
    """A store with a sealed value in every column."""
    runtime = world.connect()
    handle(runtime, *(virtualsms_v1(order=f"ord_{each}") for each in range(3)))
    row = str(ULID())
    place = {"table": "rejected_requests", "column": "origin", "row": row}
    with runtime.database.transaction() as session:
        session.add(
            RejectedRequest(
                id=row, at=clock.now(), provider="virtualsms", status=401, reason="r",
                origin=runtime.vault.seal("127.0.0.1", **place),
            )
        )  # fmt: skip
    return world.store


def test_everything_is_sealed_with_the_first_key(full_store: Store) -> None:
    """Every column is rotated, once: the new key opens all values, and the old key opens none."""
    assert {
        f"{each.table}.{each.column}" for each in key_rotation.count(full_store.database)
    } == COLUMNS
    before = counts(full_store)
    assert set(before) == {key_id(KEY)}
    old = [event.body or b"" for event in all_rows(full_store, InboxEvent)]

    steps = rotate(full_store, NEW, KEY)

    assert {f"{step.table}.{step.column}" for step in steps} == COLUMNS
    assert all(step.done == step.total and not step.broken for step in steps)
    assert counts(full_store) == {key_id(NEW): before[key_id(KEY)]}
    vault = index_key.open_vault(full_store.database, [NEW])
    assert vault.digest("code", "1") == full_store.vault.digest("code", "1")
    for code in all_rows(full_store, Code):
        assert codes.open_field(vault, code, "code") == webhooks.CODE
        assert codes.open_field(vault, code, "phone_number") == webhooks.UK_PHONE
    events = all_rows(full_store, InboxEvent)
    for event in events:
        assert webhooks.CODE.encode() in (inbox.open_body(vault, event) or b"")
    if not full_store.database.is_postgresql:
        assert not any(in_files(full_store, each) for each in old)
    with pytest.raises(ConfigurationError, match=key_id(NEW).hex()):
        index_key.open_vault(full_store.database, [KEY])

    assert rotate(full_store, NEW, KEY) == []
    assert all_rows(full_store, InboxEvent) == events


def test_values_of_a_missing_key_stay(full_store: Store) -> None:
    """Values of every old key are rotated; these follow once their key is configured again."""
    rotate(full_store, OTHER, KEY)
    vault = index_key.open_vault(full_store.database, [KEY, OTHER])
    with full_store.database.transaction() as session:
        inbox.store_many(session, vault, [spooled("another")])
    rotate(full_store, NEW, OTHER)
    assert counts(full_store)[key_id(KEY)] == 1
    assert set(counts(full_store)) == {key_id(KEY), key_id(NEW)}
    rotate(full_store, OTHER, NEW, KEY)
    assert set(counts(full_store)) == {key_id(OTHER)}


VALUES: dict[str, Callable[[bytes, bytes], bytes]] = {
    "altered": lambda one, _: one[:-1] + b"\0\0",
    "moved from another row": lambda _, other: other,
    "empty": lambda *_: b"",
    "without a key": lambda *_: b"\1",
    "without a body": lambda *_: b"\1" + key_id(KEY),
    "of another version": lambda *_: b"\2" + key_id(KEY) + bytes(40),
}


@pytest.mark.parametrize("case", VALUES)
def test_a_value_that_does_not_open_is_reported_and_left(full_store: Store, case: str) -> None:
    """It does not stop the rotation of the others, and is not made genuine."""
    event, other, *_ = all_rows(full_store, InboxEvent)
    total = sum(counts(full_store).values())
    value = VALUES[case](event.body or b"", other.body or b"")
    change(full_store, event, body=value)
    steps = rotate(full_store, NEW, KEY)
    reported = {row for step in steps for row in step.broken}
    assert reported == ({event.id} if value[1:5] == key_id(KEY) else set())
    assert counts(full_store) == {key_id(NEW): total - 1, value[1:5]: 1}
    assert fetch(full_store, InboxEvent, event.id).body == value


def test_concurrent_rotations(full_store: Store) -> None:
    """Two rotations neither fail nor lose a value."""
    fill(full_store, 1_200)
    total = sum(counts(full_store).values())
    with ThreadPoolExecutor(2) as pool:
        for each in [pool.submit(rotate, full_store, NEW, KEY) for _ in range(2)]:
            each.result(60)
    assert counts(full_store) == {key_id(NEW): total}


def test_a_concurrent_purge_wins(full_store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A value that is purged between read and write does not come back."""
    event, *_ = all_rows(full_store, InboxEvent)
    reseal = key_rotation._Rotation._reseal

    def and_purge(self: key_rotation._Rotation, rows: Any) -> Any:
        resealed = reseal(self, rows)
        if event.id in rows:
            change(full_store, event, body=None)
        return resealed

    monkeypatch.setattr(key_rotation._Rotation, "_reseal", and_purge)
    rotate(full_store, NEW, KEY)
    assert fetch(full_store, InboxEvent, event.id).body is None
    assert set(counts(full_store)) == {key_id(NEW)}


@on_postgresql
def test_locked_rows_are_skipped(full_store: Store) -> None:
    """They are rotated the next time."""
    event, *_ = all_rows(full_store, InboxEvent)
    with full_store.database.transaction() as session:
        session.exec(select(InboxEvent).where(col(InboxEvent.id) == event.id).with_for_update())
        rotate(full_store, NEW, KEY)
        assert counts(full_store)[key_id(KEY)] == 1
    rotate(full_store, NEW, KEY)
    assert set(counts(full_store)) == {key_id(NEW)}


@on_sqlite
def test_the_spool_directory(full_store: Store, tmp_path: Path) -> None:
    """Its copy of the index key is replaced; spooled events are counted by their keys."""
    folder = tmp_path / "spool"
    spool = Spool(folder)
    index_key.save_copy(folder, index_key.sealed(full_store.database))
    spool.store(inbox.prepare(full_store.vault, [spooled("k")]))

    rotate(full_store, NEW, KEY, folder=folder)

    stored = index_key.load_copy(folder) or b""
    assert index_key.unseal(stored, [NEW]).digest("a", "b") == full_store.vault.digest("a", "b")
    waiting = [
        each
        for each in key_rotation.count(full_store.database, look(folder).sealed_by)
        if each.table == "spool"
    ]
    assert waiting == [key_rotation.KeyUsage(key_id(KEY).hex(), "spool", "body", 1)]
    spool.close()


def command(store: Store, *, failpoints: str = "") -> subprocess.Popen[str]:
    """Start ``codecatch keys rotate`` as a separate process."""
    keys = ",".join(base64.b64encode(key).decode() for key in (NEW, KEY))
    variables = {"DATABASE_URL": store.url, "ENCRYPTION_KEYS": keys}
    return subprocess.Popen(
        [sys.executable, "-m", "worker.cli", "keys", "rotate"],
        env={**os.environ, **variables, "CODECATCH_FAILPOINTS": failpoints},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_a_killed_rotation_resumes(store: Store, tmp_path: Path) -> None:
    """The committed batch counts, and the next rotation does the rest."""
    fill(store, 1_200)
    token = tmp_path / "once"
    token.touch()
    with command(store, failpoints=f"rotation.after_batch=kill@{token}") as killed:
        assert killed.wait(60) == -signal.SIGKILL
    done = counts(store)[key_id(NEW)]
    assert 0 < done < 1_201
    steps = rotate(store, NEW, KEY)
    assert sum({(s.table, s.column): s.total for s in steps}.values()) == 1_201 - done
    assert counts(store) == {key_id(NEW): 1_201}


@pytest.mark.long
@pytest.mark.timeout(900)
def test_a_hundred_thousand_rows_and_three_kills(store: Store) -> None:
    """While events arrive, each process resumes after the last kill, and all values open."""
    fill(store, 100_000)
    vault = index_key.open_vault(store.database, [KEY])
    done = 0
    for kill in range(3):
        least = done + 10_000
        with command(store) as killed:
            eventually(lambda: rotated(store) >= least, within=120, every=0.5)  # noqa: B023
            with store.database.transaction() as session:
                inbox.store_many(session, vault, [spooled(f"meanwhile {kill}", "daisysim")])
            killed.kill()
        assert done < rotated(store) < 100_000
        done = rotated(store)
    with command(store) as last:
        said, _ = last.communicate(timeout=600)
        assert (last.returncode, said.splitlines()[-1]) == (
            0,
            f"all values are encrypted with key {key_id(NEW).hex()}",
        )
    assert counts(store) == {key_id(NEW): 100_004}
    opened = index_key.open_vault(store.database, [NEW])
    with store.database.reading() as session:
        for event in session.exec(select(InboxEvent).execution_options(yield_per=1_000)):
            assert (inbox.open_body(opened, event) or b"").startswith(b"{")


def rotated(store: Store) -> int:
    """Number of values that the new key seals."""
    return counts(store).get(key_id(NEW), 0)
