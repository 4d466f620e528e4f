"""Group commit: shared transactions, one outcome per request, and a loop that never blocks."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
import time
import tracemalloc
from asyncio import FIRST_EXCEPTION
from collections.abc import Callable, Coroutine, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sqlalchemy import Connection
from sqlalchemy.exc import OperationalError
from sqlmodel import select

from receiver import clock
from receiver.database import engine, sqlite
from receiver.errors import StoreUnavailable
from receiver.inbox import group_commit
from receiver.inbox import spool as spool_files
from receiver.inbox import store as inbox
from receiver.inbox.group_commit import GroupCommit
from receiver.inbox.spool import Spool
from receiver.inbox.store import InboxEvent, InboxRow, IncomingEvent, StoreResult
from tests.receiver.conftest import Log
from tests.receiver.database.locks import inbox_locked
from tests.support.stores import Store, open_store
from tests.support.waiting import eventually

pytestmark = pytest.mark.both_databases

# A lone surrogate cannot be encoded, so no database stores this key.
POISON = "\ud800"
Batches = list[list[str]]


def incoming(key: str | None, body: bytes = b"{}") -> IncomingEvent:
    """An authentic webhook."""
    return IncomingEvent(provider="virtualsms", body=body, arrived_at=clock.now(), key=key)


def stored_ids(store: Store) -> dict[str, str]:
    """Ids of all rows, by event key."""
    with store.database.reading() as session:
        return {row.key: row.id for row in session.exec(select(InboxEvent))}


@pytest.fixture
def group(store: Store) -> Iterator[GroupCommit]:
    """A group commit on either database server, without a spool."""
    opened = GroupCommit(store.database, store.vault)
    yield opened
    opened.close()


@pytest.fixture
def batches(monkeypatch: pytest.MonkeyPatch) -> Batches:
    """The event keys of every batch that is attempted."""
    seen: Batches = []
    original = inbox.insert_new

    def watched(connection: Connection, rows: Sequence[InboxRow]) -> bool:
        seen.append([row.unique_key[1] for row in rows])
        return original(connection, rows)

    monkeypatch.setattr(inbox, "insert_new", watched)
    return seen


@pytest.fixture
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten the lock time-outs of both servers to 100 ms."""
    monkeypatch.setattr(sqlite, "BUSY_SECONDS", 0.1)
    options = engine.POSTGRESQL_OPTIONS.replace("lock_timeout=2s", "lock_timeout=100ms")
    monkeypatch.setattr(engine, "POSTGRESQL_OPTIONS", options)


async def wait_until(check: Callable[[], object]) -> None:
    """Let the loop run until ``check`` returns a true value."""
    async with asyncio.timeout(10):
        while not check():  # noqa: ASYNC110 -- the check reads the database, which sets no event
            await asyncio.sleep(0.01)


def run(scenario: Coroutine[Any, Any, Any]) -> Any:
    """Run a scenario on a new loop; fail if the loop's exception handler is called."""
    unhandled: list[object] = []

    async def watch() -> Any:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: unhandled.append(context))
        return await scenario

    result = asyncio.run(watch())
    assert unhandled == []
    return result


async def store_all(
    group: GroupCommit, incoming_events: Sequence[IncomingEvent]
) -> list[StoreResult | BaseException]:
    """Store all events concurrently; each result or exception."""
    return await asyncio.gather(*map(group.store, incoming_events), return_exceptions=True)


def max_in_flight(store: Store) -> int:
    """How many batches may be in flight at once."""
    return 2 if store.database.is_postgresql else 1


async def fill_in_flight(group: GroupCommit, store: Store) -> list[asyncio.Task[StoreResult]]:
    """Start as many batches as may be in flight, of one event each."""
    storing = []
    for number in range(max_in_flight(store)):
        storing.append(asyncio.create_task(group.store(incoming(f"first_{number}"))))
        for _ in range(3):  # iterations of the loop: submit, collect, start
            await asyncio.sleep(0)
    return storing


def test_events_of_the_next_loop_iterations_join_the_batch(
    group: GroupCommit, batches: Batches
) -> None:
    """As long as each iteration adds one; a lone event is written at once, a full batch too."""

    async def scenario(count: int) -> None:
        storing = []
        for number in range(count):
            storing.append(asyncio.create_task(group.store(incoming(f"evt_{number:02}"))))
            await asyncio.sleep(0)
        await asyncio.gather(*storing)

    keys = [f"evt_{number:02}" for number in range(48)]
    for count in (1, 5):
        run(scenario(count))
        assert batches == [keys[:count]]
        batches.clear()
    run(scenario(48))
    assert 30 <= len(batches[0]) <= 34


def test_concurrent_events_share_transactions(
    store: Store, group: GroupCommit, batches: Batches
) -> None:
    """Three hundred concurrent events take a handful of commits, and each gets its own id."""
    keys = [f"evt_{number}" for number in range(300)]
    outcomes = run(store_all(group, [incoming(key) for key in keys]))
    assert len(batches) <= 6
    assert max(map(len, batches)) <= group_commit.MAX_BATCH
    assert stored_ids(store) == {
        key: outcome.id for key, outcome in zip(keys, outcomes, strict=True)
    }


def test_concurrent_duplicates_are_one_row(store: Store, group: GroupCommit) -> None:
    """Of a hundred only one is new, and all get the same id."""
    outcomes = run(store_all(group, [incoming("evt_1")] * 100))
    assert sum(not outcome.duplicate for outcome in outcomes) == 1
    assert {outcome.id for outcome in outcomes} == {stored_ids(store)["evt_1"]}


@pytest.mark.parametrize("poison", [POISON, "a\x00b"])
def test_a_poison_event_does_not_fail_its_batch(
    store: Store, group: GroupCommit, log: Log, poison: str
) -> None:
    """An event that the database cannot store fails alone; the rest of the batch is stored."""
    if poison != POISON and not store.database.is_postgresql:
        pytest.skip("SQLite stores a NUL in text")
    keys = [f"evt_{number}" for number in range(20)]
    incoming_events = [*map(incoming, keys[:10]), incoming(poison), *map(incoming, keys[10:])]
    outcomes = run(store_all(group, incoming_events))
    assert isinstance(outcomes.pop(10), StoreUnavailable)
    assert all(isinstance(outcome, StoreResult) for outcome in outcomes)
    assert sorted(stored_ids(store)) == sorted(keys)
    assert log.of("group_commit.commit_failed")


@pytest.mark.usefixtures("_impatient")
def test_a_failing_database_refuses_the_whole_batch(
    store_url: str, batches: Batches, log: Log
) -> None:
    """While the database fails, every request is refused, without one attempt per event."""
    store = open_store(store_url)
    group = GroupCommit(store.database, store.vault)
    with inbox_locked(store_url):
        outcomes = run(store_all(group, [incoming(f"evt_{number}") for number in range(50)]))
    assert all(isinstance(outcome, StoreUnavailable) for outcome in outcomes)
    assert len({id(outcome) for outcome in outcomes}) == 50
    assert len(batches) <= 4
    assert log.of("group_commit.commit_failed")
    (good,) = run(store_all(group, [incoming("evt_1")]))
    assert stored_ids(store) == {"evt_1": good.id}
    group.close()
    store.database.dispose()


def test_a_slow_commit_does_not_block_the_loop(store: Store, group: GroupCommit) -> None:
    """While the write waits for a lock the loop runs, and afterwards the event is stored."""

    async def scenario() -> StoreResult:
        with ExitStack() as stack:
            stack.enter_context(inbox_locked(store.url))
            storing = asyncio.create_task(group.store(incoming("evt_1")))
            for _ in range(20):
                await asyncio.sleep(0.01)
            assert not storing.done()
        return await storing

    stored = run(scenario())
    assert stored_ids(store) == {"evt_1": stored.id}


def test_the_queue_is_bounded(
    store: Store, group: GroupCommit, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When it is full, the next event is refused at once, and the queued ones are stored."""
    monkeypatch.setattr(group_commit, "MAX_QUEUED", 5)
    accepted = 5 + max_in_flight(store)

    async def scenario() -> None:
        with ExitStack() as stack:
            stack.enter_context(inbox_locked(store.url))
            storing = await fill_in_flight(group, store)
            storing += [
                asyncio.create_task(group.store(incoming(f"evt_{number}"))) for number in range(5)
            ]
            await asyncio.sleep(0)
            with pytest.raises(StoreUnavailable, match="too many"):
                await group.store(incoming("one too many"))
        await asyncio.gather(*storing)

    run(scenario())
    assert len(stored_ids(store)) == accepted


def test_the_event_of_a_cancelled_request_is_stored(store: Store, group: GroupCommit) -> None:
    """An event in flight or queued is not lost when its request is cancelled."""

    async def scenario() -> None:
        with ExitStack() as stack:
            stack.enter_context(inbox_locked(store.url))
            storing = [
                asyncio.create_task(group.store(incoming(f"evt_{number}"))) for number in range(5)
            ]
            _, waiting = await asyncio.wait(storing, timeout=0.05)
            for task in waiting:
                task.cancel()
            await asyncio.gather(*storing, return_exceptions=True)
        await wait_until(lambda: len(stored_ids(store)) == 5)

    run(scenario())


def test_each_request_has_its_own_deadline(store: Store, group: GroupCommit) -> None:
    """The earliest deadline is refused first, even if other requests came before."""

    async def scenario() -> None:
        now = time.monotonic()
        with ExitStack() as stack:
            stack.enter_context(inbox_locked(store.url))
            late, early, middle = (
                asyncio.create_task(group.store(incoming(key), now + seconds))
                for key, seconds in (("evt_1", 60), ("evt_2", 0.1), ("evt_3", 0.2))
            )
            done, _ = await asyncio.wait([late, early, middle], return_when=FIRST_EXCEPTION)
            assert done == {early}
            with pytest.raises(StoreUnavailable, match="in time"):
                await middle
            assert time.monotonic() - now < 1.5
            assert not late.done()
        assert not (await late).duplicate
        await wait_until(lambda: len(stored_ids(store)) == 3)

    run(scenario())


def test_an_answered_request_leaves_memory_at_once(
    store: Store, group: GroupCommit, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Refused or stored, no body stays behind a batch that is stuck; nor does its place."""
    release, stuck = threading.Event(), threading.Event()
    original = inbox.insert_new

    def hang(connection: Connection, rows: Sequence[InboxRow]) -> bool:
        stuck.set()
        release.wait(20)
        return original(connection, rows)

    monkeypatch.setattr(inbox, "insert_new", hang)
    size, count = 20_000, 1_000

    async def scenario() -> None:
        earlier = [asyncio.create_task(group.store(incoming("stuck"), time.monotonic() + 60))]
        while not stuck.is_set():  # noqa: ASYNC110 -- a thread sets it
            await asyncio.sleep(0.01)
        for number in range(1, max_in_flight(store)):
            earlier.append(asyncio.create_task(group.store(incoming(f"stuck {number}"))))
            await asyncio.sleep(0.05)
        tracemalloc.start()
        soon = time.monotonic() + 0.3
        answers: list[type] = []
        for n in range(count):
            event = incoming(f"evt_{n}", bytes([n % 251]) * size)
            group.submit(event, lambda outcome: answers.append(type(outcome)), soon)
        del event
        await wait_until(lambda: len(answers) == count)
        assert set(answers) == {StoreUnavailable}
        held, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert held < size * count / 10
        assert not group._queue
        release.set()
        await asyncio.gather(*earlier)

    run(scenario())


def test_a_failure_of_a_cancelled_request_is_handled(
    group: GroupCommit, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A write that fails after its request was cancelled leaves no unhandled exception."""
    release = threading.Event()

    def broken(*_: object) -> bool:
        release.wait(10)
        raise RuntimeError

    monkeypatch.setattr(inbox, "insert_new", broken)

    async def scenario() -> None:
        storing = asyncio.create_task(group.store(incoming("evt_1")))
        await asyncio.wait([storing], timeout=0.05)
        storing.cancel()
        await asyncio.gather(storing, return_exceptions=True)
        release.set()
        with pytest.raises(StoreUnavailable):
            await group.store(incoming("evt_2"))

    run(scenario())


def test_an_unexpected_error_of_the_writer_refuses_the_batch(
    group: GroupCommit, monkeypatch: pytest.MonkeyPatch, log: Log
) -> None:
    """Whatever exception ends a write, each request of the batch gets an outcome."""

    def broken(_: GroupCommit, __: object) -> list[StoreResult | StoreUnavailable]:
        raise RuntimeError

    monkeypatch.setattr(GroupCommit, "_write", broken)
    outcomes = run(store_all(group, [incoming(str(number)) for number in range(5)]))
    assert all(isinstance(outcome, StoreUnavailable) for outcome in outcomes)
    assert {line["error"] for line in log.of("group_commit.write_failed")} == {"RuntimeError"}


@pytest.mark.parametrize("with_spool", [False, True])
def test_a_failed_flush_stops_the_process(
    sqlite_store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, with_spool: bool
) -> None:
    """The event is refused or spooled, never reported as stored, and the process stops."""
    stops: list[int] = []
    spool = Spool(tmp_path / "spool") if with_spool else None
    group = GroupCommit(sqlite_store.database, sqlite_store.vault, spool, lambda: stops.append(1))

    def insert_new(*_: object) -> bool:
        error = sqlite3.OperationalError("disk I/O error")
        error.sqlite_errorcode = sqlite3.SQLITE_IOERR_FSYNC
        raise OperationalError("INSERT", {}, error)

    monkeypatch.setattr(inbox, "insert_new", insert_new)
    (outcome,) = run(store_all(group, [incoming("evt_1")]))
    group.close()
    assert isinstance(outcome, StoreResult if with_spool else StoreUnavailable)
    assert stops == [1]
    assert stored_ids(sqlite_store) == {}
    if spool is not None:
        assert spool_files.depth(tmp_path / "spool") == 1
        spool.close()


def test_what_arrives_while_the_spool_is_written_shares_the_next_batch(
    sqlite_store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One thread writes the spool's file, so one batch is in flight."""
    spool = Spool(tmp_path / "spool")
    group = GroupCommit(sqlite_store.database, sqlite_store.vault, spool)
    full = group_commit.MAX_BATCH
    writing, proceed, sizes, original = threading.Event(), threading.Event(), [], Spool.store

    def slow(to: Spool, rows: list[InboxRow]) -> Sequence[StoreResult]:
        sizes.append(len(rows))
        writing.set()
        assert proceed.wait(10)
        return original(to, rows)

    monkeypatch.setattr(Spool, "store", slow)

    async def scenario() -> None:
        group.database_down.set()
        storing = [
            asyncio.create_task(group.store(incoming(f"first_{number}")))
            for number in range(full + 1)
        ]
        await asyncio.to_thread(writing.wait, 10)
        for number in range(3):
            storing.append(asyncio.create_task(group.store(incoming(f"evt_{number}"))))
            for _ in range(5):  # iterations of the loop, enough to start a batch
                await asyncio.sleep(0)
        proceed.set()
        await asyncio.gather(*storing)

    run(scenario())
    group.close()
    spool.close()
    assert sizes == [full, 4]


def test_closing_finishes_batches_in_flight_and_refuses_the_rest(store: Store) -> None:
    """Events in flight are stored; queued and later ones are refused."""
    group = GroupCommit(store.database, store.vault)
    in_flight = max_in_flight(store)

    async def scenario() -> list[StoreResult | BaseException]:
        with ExitStack() as stack:
            stack.enter_context(inbox_locked(store.url))
            storing = await fill_in_flight(group, store)
            storing += [
                asyncio.create_task(group.store(incoming(f"evt_{number}"))) for number in range(5)
            ]
            await asyncio.sleep(0)
            storing[-1].cancel()
            releasing = threading.Timer(0.1, stack.pop_all().close)
            releasing.start()
            group.close()
            releasing.join()
        with pytest.raises(StoreUnavailable, match="stopping"):
            await group.store(incoming("too late"))
        return await asyncio.gather(*storing, return_exceptions=True)

    outcomes = run(scenario())
    assert all(isinstance(outcome, StoreResult) for outcome in outcomes[:in_flight])
    assert all(isinstance(outcome, StoreUnavailable) for outcome in outcomes[in_flight:-1])
    assert isinstance(outcomes[-1], asyncio.CancelledError)
    assert len(stored_ids(store)) == in_flight


def test_equal_keys_in_opposite_order_are_stored_once(store: Store) -> None:
    """Two writers that store the same events concurrently, in opposite order, both succeed."""
    keys = [f"evt_{number}" for number in range(40)]

    def write(process: int) -> list[bool]:
        own = open_store(store.url)
        group = GroupCommit(own.database, own.vault)
        seen: list[bool] = []
        for number in range(5):
            batch = [incoming(f"{number}-{key}") for key in (keys if process else keys[::-1])]
            outcomes = asyncio.run(store_all(group, batch))
            seen += [isinstance(outcome, StoreResult) for outcome in outcomes]
        group.close()
        own.database.dispose()
        return seen

    with ThreadPoolExecutor(2) as pool:
        outcomes = [outcome for seen in pool.map(write, range(2)) for outcome in seen]
    assert len(outcomes) == 400
    assert all(outcomes)
    assert len(stored_ids(store)) == 200


def test_a_deadlock_is_retried(
    store: Store, batches: Batches, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A batch that the server chose as a deadlock's victim is retried until it is stored."""
    if not store.database.is_postgresql:
        pytest.skip("SQLite has one writer, so no deadlocks")
    # Only our side detects deadlocks, long after the other side has run into it.
    options = "-c statement_timeout=20s -c lock_timeout=20s -c deadlock_timeout=500ms"
    monkeypatch.setattr(engine, "POSTGRESQL_OPTIONS", options)
    ours = open_store(store.url)
    group = GroupCommit(ours.database, ours.vault)
    columns = (
        "id, provider, key, body_digest, source, state, attempt, vanished, next_attempt_at, "
        "arrived_at, stored_at"
    )

    def insert(connection: psycopg.Connection, key: str) -> None:
        connection.execute(
            f"INSERT INTO inbox_events ({columns}) VALUES "
            "(%(key)s, 'virtualsms', %(key)s, %(digest)s, 'webhook', 'pending', 0, 0, "
            "now(), now(), now())",
            {"key": key, "digest": store.vault.digest("body", b"{}")},
        )

    with psycopg.connect(store.url) as other, psycopg.connect(store.url) as watching:
        watching.autocommit = True
        other.execute("SET deadlock_timeout = '60s'")
        insert(other, "b")
        with ThreadPoolExecutor(1) as pool:
            storing = pool.submit(lambda: asyncio.run(store_pair_behind(group, store)))
            waiting = "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
            eventually(lambda: watching.execute(waiting).fetchone(), every=0.01)
            insert(other, "a")
            other.commit()
            outcomes = storing.result(20)
    group.close()
    ours.database.dispose()
    assert [outcome.duplicate for outcome in outcomes] == [False, False, True, True]
    # Two attempts, or three if the retry came before the other side had got its lock.
    tries = [batch for batch in batches if "a" in batch]
    assert len(tries) > 1
    assert all(batch == ["a", "b"] for batch in tries)


async def store_pair_behind(group: GroupCommit, store: Store) -> list[StoreResult]:
    """Store two events in one batch, while the maximum of batches is in flight."""
    earlier = await fill_in_flight(group, store)
    return await asyncio.gather(*earlier, *(group.store(incoming(name)) for name in "ab"))


def test_an_endless_deadlock_is_refused(
    group: GroupCommit, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After three attempts the event is refused, and the sender retries."""
    attempts: list[int] = []

    class Deadlock(Exception):
        sqlstate = "40P01"

    def deadlocked(*_: object) -> bool:
        attempts.append(1)
        raise OperationalError("INSERT", {}, Deadlock())

    monkeypatch.setattr(inbox, "insert_new", deadlocked)
    with pytest.raises(StoreUnavailable):
        run(group.store(incoming("evt_1")))
    assert len(attempts) == 3
