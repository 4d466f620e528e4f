"""Rotating keys: everything is sealed anew while all goes on, and a kill costs nothing."""

from __future__ import annotations

import base64
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
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
from receiver.inbox.spool import Spool
from receiver.inbox.store import INBOX, InboxEvent, IncomingEvent
from receiver.vault import index_key
from receiver.vault.sealing import Vault, key_id
from tests.support import webhooks
from tests.support.stores import KEY, Store
from tests.support.waiting import eventually
from tests.support.webhooks import virtualsms_v1
from tests.worker.support import World, change, everything, fetch, handle, on_postgresql, on_sqlite
from worker.maintenance import key_rotation
from worker.orders import codes
from worker.schema.models import Code

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
    """How many values each key seals."""
    found: dict[bytes, int] = {}
    for each in key_rotation.count(store.database):
        key = bytes.fromhex(each.key)
        found[key] = found.get(key, 0) + each.values
    return found


def fill(store: Store, number: int) -> None:
    """Events in the inbox, sealed with the first key, by a statement for each ten thousand."""
    for start in range(0, number, 10_000):
        incoming_events = [
            IncomingEvent(
                provider="virtualsms",
                body=b'{"n": %d}' % each,
                arrived_at=clock.now(),
                key=f"{each}",
            )
            for each in range(start, min(number, start + 10_000))
        ]
        rows = [dict(entry.values) for entry in inbox.prepare(store.vault, incoming_events)]
        with store.database.transaction() as session:
            session.connection().execute(insert(INBOX), rows)


@pytest.fixture
def full(world: World) -> Store:
    """A store with something sealed in every column."""
    made = world.connect()
    handle(made, *(virtualsms_v1(order=f"ord_{each}") for each in range(3)))
    row = str(ULID())
    place = {"table": "rejected_requests", "column": "origin", "row": row}
    with made.database.transaction() as session:
        session.add(
            RejectedRequest(
                id=row, at=clock.now(), provider="virtualsms", status=401, reason="r",
                origin=made.vault.seal("127.0.0.1", **place),
            )
        )  # fmt: skip
    return world.store


def test_everything_is_sealed_with_the_first_key(full: Store) -> None:
    """In every column there is; the old key is of no use any more, and the new one opens all."""
    assert {f"{each.table}.{each.column}" for each in key_rotation.count(full.database)} == COLUMNS
    before = counts(full)
    assert set(before) == {key_id(KEY)}

    steps = rotate(full, NEW, KEY)

    assert {f"{step.table}.{step.column}" for step in steps} == COLUMNS
    assert all(step.done == step.total and not step.broken for step in steps)
    assert counts(full) == {key_id(NEW): before[key_id(KEY)]}
    vault = index_key.open_vault(full.database, [NEW])
    assert vault.digest("code", "1") == full.vault.digest("code", "1")
    for code in everything(full, Code):
        assert codes.open_field(vault, code, "code") == webhooks.CODE
        assert codes.open_field(vault, code, "phone_number") == webhooks.UK_PHONE
    for event in everything(full, InboxEvent):
        assert webhooks.CODE.encode() in (inbox.open_body(vault, event) or b"")
    with pytest.raises(ConfigurationError, match=key_id(NEW).hex()):
        index_key.open_vault(full.database, [KEY])


def test_a_second_time_there_is_nothing_to_do(full: Store) -> None:
    """Not one value is sealed again."""
    rotate(full, NEW, KEY)
    before = [event.body for event in everything(full, InboxEvent)]
    assert rotate(full, NEW, KEY) == []
    assert [event.body for event in everything(full, InboxEvent)] == before


def test_several_old_keys(full: Store) -> None:
    """One that was added in between is replaced with the first one as well."""
    rotate(full, OTHER, KEY)
    handle_with(full, index_key.open_vault(full.database, [NEW, OTHER, KEY]))
    assert set(counts(full)) == {key_id(OTHER), key_id(NEW)}
    rotate(full, KEY, OTHER, NEW)
    assert set(counts(full)) == {key_id(KEY)}


def handle_with(store: Store, vault: Vault) -> None:
    """Store an event that is sealed by another vault."""
    incoming = IncomingEvent(
        provider="virtualsms", body=b"{}", arrived_at=clock.now(), key="another"
    )
    with store.database.transaction() as session:
        inbox.store_many(session, vault, [incoming])


def test_what_a_missing_key_sealed_stays(full: Store) -> None:
    """The rest is rotated; once the key is there again, so is that."""
    rotate(full, OTHER, KEY)
    handle_with(full, index_key.open_vault(full.database, [KEY, OTHER]))
    rotate(full, NEW, OTHER)
    assert counts(full)[key_id(KEY)] == 1
    assert set(counts(full)) == {key_id(KEY), key_id(NEW)}
    rotate(full, NEW, KEY)
    assert set(counts(full)) == {key_id(NEW)}


def test_what_does_not_open_is_named_and_left(full: Store) -> None:
    """One altered value does not keep the others from being rotated."""
    event, *_ = everything(full, InboxEvent)
    altered = (event.body or b"")[:-1] + b"\0\0"
    change(full, event, body=altered)
    steps = rotate(full, NEW, KEY)
    assert {row for step in steps for row in step.broken} == {event.id}
    assert counts(full)[key_id(KEY)] == 1
    assert fetch(full, InboxEvent, event.id).body == altered


@pytest.mark.parametrize(
    "value", [b"", b"\1", b"\1" + key_id(KEY), b"\2" + key_id(KEY) + bytes(40)]
)
def test_what_was_never_sealed_stops_nobody(full: Store, value: bytes) -> None:
    """Whatever stands in place of a sealed value is counted, and left; the rest is rotated."""
    event, *_ = everything(full, InboxEvent)
    total = sum(counts(full).values())
    change(full, event, body=value)
    rotate(full, NEW, KEY)
    assert counts(full) == {key_id(NEW): total - 1, value[1:5]: 1}
    assert fetch(full, InboxEvent, event.id).body == value


def test_values_that_changed_places_are_not_sealed_there(full: Store) -> None:
    """Whoever swaps two values in the database does not get them made genuine by a rotation."""
    one, two, *_ = everything(full, InboxEvent)
    change(full, one, body=two.body)
    change(full, two, body=one.body)
    steps = rotate(full, NEW, KEY)
    assert {row for step in steps for row in step.broken} == {one.id, two.id}
    assert fetch(full, InboxEvent, one.id).body == two.body


def test_rotations_at_once_do_the_work_of_one(full: Store) -> None:
    """Two that meet neither fail nor lose a value, and all is sealed with the new key."""
    fill(full, 1_200)
    total = sum(counts(full).values())
    with ThreadPoolExecutor(2) as pool:
        for each in [pool.submit(rotate, full, NEW, KEY) for _ in range(2)]:
            each.result(60)
    assert counts(full) == {key_id(NEW): total}


def test_what_is_purged_meanwhile_stays_purged(
    full: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A value that went between the look and the write does not come back."""
    event, *_ = everything(full, InboxEvent)
    reseal = key_rotation._Rotation._reseal

    def and_purge(self: key_rotation._Rotation, rows: Any) -> Any:
        resealed = reseal(self, rows)
        if event.id in rows:
            change(full, event, body=None)
        return resealed

    monkeypatch.setattr(key_rotation._Rotation, "_reseal", and_purge)
    rotate(full, NEW, KEY)
    assert fetch(full, InboxEvent, event.id).body is None
    assert set(counts(full)) == {key_id(NEW)}


@on_postgresql
def test_rows_in_hand_are_waited_for_by_nobody(full: Store) -> None:
    """They are passed over, and rotated the next time."""
    event, *_ = everything(full, InboxEvent)
    with full.database.transaction() as session:
        session.exec(select(InboxEvent).where(col(InboxEvent.id) == event.id).with_for_update())
        rotate(full, NEW, KEY)
        assert counts(full)[key_id(KEY)] == 1
    rotate(full, NEW, KEY)
    assert set(counts(full)) == {key_id(NEW)}


@on_sqlite
def test_what_is_kept_beside_the_spool(full: Store, tmp_path: Path) -> None:
    """The index key there is the new one; events that wait are counted by their keys."""
    folder = tmp_path / "spool"
    spool = Spool(folder)
    index_key.keep(folder, index_key.sealed(full.database))
    incoming = IncomingEvent(provider="virtualsms", body=b"{}", arrived_at=clock.now(), key="k")
    spool.store(inbox.prepare(full.vault, [incoming]))

    rotate(full, NEW, KEY, folder=folder)

    kept = index_key.kept(folder) or b""
    assert index_key.unseal(kept, [NEW]).digest("a", "b") == full.vault.digest("a", "b")
    waiting = [each for each in key_rotation.count(full.database, folder) if each.table == "spool"]
    assert waiting == [key_rotation.Sealed(key_id(KEY).hex(), "spool", "body", 1)]
    spool.close()


@on_sqlite
def test_the_files_hold_nothing_of_what_the_old_key_sealed(full: Store) -> None:
    """Whoever has found the old key cannot open what is left in the files."""
    old = [event.body or b"" for event in everything(full, InboxEvent)]
    rotate(full, NEW, KEY)
    path = Path(full.database.engine.url.database or "")
    held = b"".join(each.read_bytes() for each in path.parent.glob(f"{path.name}*"))
    assert not any(each[:40] in held for each in old)


def command(store: Store, *, failpoints: str = "") -> subprocess.Popen[str]:
    """``codecatch keys rotate`` in a process of its own."""
    keys = ",".join(base64.b64encode(key).decode() for key in (NEW, KEY))
    environment = {
        **os.environ,
        "DATABASE_URL": store.url,
        "ENCRYPTION_KEYS": keys,
        "CODECATCH_FAILPOINTS": failpoints,
    }
    return subprocess.Popen(
        [sys.executable, "-m", "worker.cli", "keys", "rotate"],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_a_rotation_that_was_killed_goes_on(store: Store, tmp_path: Path) -> None:
    """The batch before the kill is done, and whoever comes next does the rest."""
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
    """Events keep coming in; each process goes on where the last one died, and all can be read."""
    fill(store, 100_000)
    vault = index_key.open_vault(store.database, [KEY])
    done = 0
    for kill in range(3):
        with command(store) as killed:
            eventually(partial(reached, store, done + 10_000), within=120, every=0.5)
            incoming = IncomingEvent(
                provider="daisysim", body=b"{}", arrived_at=clock.now(), key=f"meanwhile {kill}"
            )
            with store.database.transaction() as session:
                inbox.store_many(session, vault, [incoming])
            killed.kill()
        assert done < rotated(store) < 100_000
        done = rotated(store)
    with command(store) as last:
        said, _ = last.communicate(timeout=600)
        assert (last.returncode, said.splitlines()[-1]) == (
            0,
            f"everything is sealed with key {key_id(NEW).hex()}",
        )
    assert counts(store) == {key_id(NEW): 100_004}
    opened = index_key.open_vault(store.database, [NEW])
    for event in bodies(store):
        assert (inbox.open_body(opened, event) or b"").startswith(b"{")


def reached(store: Store, least: int) -> bool:
    """Whether the new key seals so many events."""
    return rotated(store) >= least


def rotated(store: Store) -> int:
    """How many events the new key seals."""
    return counts(store).get(key_id(NEW), 0)


def bodies(store: Store) -> Iterator[InboxEvent]:
    """Every event, without holding all of them."""
    with store.database.reading() as session:
        yield from session.exec(select(InboxEvent).execution_options(yield_per=1_000))
