"""Group commit: shared transactions, an answer for each, and a loop that never waits."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
import time
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

# No text encoding takes half a surrogate pair, so no database takes this key.
POISON = "\ud800"
Batches = list[list[str]]


def incoming(key: str | None, body: bytes = b"{}") -> IncomingEvent:
    """An authentic webhook."""
    return IncomingEvent(provider="virtualsms", body=body, arrived_at=clock.now(), key=key)


def kept(store: Store) -> dict[str, str]:
    """The ids of all rows by their keys."""
    with store.database.reading() as session:
        return {row.key: row.id for row in session.exec(select(InboxEvent))}


@pytest.fixture
def taken(store: Store) -> Iterator[GroupCommit]:
    """The way into a database on either server."""
    made = GroupCommit(store.database, store.vault)
    yield made
    made.close()


@pytest.fixture
def batches(monkeypatch: pytest.MonkeyPatch) -> Batches:
    """The keys of every transaction that is tried."""
    seen: Batches = []
    really = inbox.insert_new

    def watched(connection: Connection, entries: Sequence[InboxRow]) -> bool:
        seen.append([entry.place[1] for entry in entries])
        return really(connection, entries)

    monkeypatch.setattr(inbox, "insert_new", watched)
    return seen


@pytest.fixture
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have either server give up soon on a lock that somebody else holds."""
    monkeypatch.setattr(sqlite, "BUSY_SECONDS", 0.1)
    options = engine.POSTGRESQL_OPTIONS.replace("lock_timeout=2s", "lock_timeout=100ms")
    monkeypatch.setattr(engine, "POSTGRESQL_OPTIONS", options)


async def until(check: Callable[[], object]) -> None:
    """Let the loop run until something is so."""
    async with asyncio.timeout(10):
        while not check():  # noqa: ASYNC110 -- the check is of the database, which sets no event
            await asyncio.sleep(0.01)


def run(story: Coroutine[Any, Any, Any]) -> Any:
    """Run a story on a loop that has nothing to complain about."""
    complaints: list[object] = []

    async def listen() -> Any:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: complaints.append(context))
        return await story

    result = asyncio.run(listen())
    assert complaints == []
    return result


async def store_all(
    taken: GroupCommit, incoming_events: Sequence[IncomingEvent]
) -> list[StoreResult | BaseException]:
    """Store at once, and return each outcome or exception."""
    return await asyncio.gather(*map(taken.store, incoming_events), return_exceptions=True)


def flights_of(store: Store) -> int:
    """How many batches may be in flight."""
    return 2 if store.database.is_postgresql else 1


async def plug(taken: GroupCommit, store: Store) -> list[asyncio.Task[StoreResult]]:
    """As many batches in flight as may be, of one event each."""
    storing = []
    for number in range(flights_of(store)):
        storing.append(asyncio.create_task(taken.store(incoming(f"plug_{number}"))))
        for _ in range(3):  # one step of the loop to come, one to look for others, one to go
            await asyncio.sleep(0)
    return storing


def test_the_answer_comes_after_the_commit(store: Store, taken: GroupCommit) -> None:
    """In the moment of the answer another connection finds the row."""
    stored = run(taken.store(incoming("evt_1")))
    other = open_store(store.url)
    assert kept(other) == {"evt_1": stored.id}
    other.database.dispose()


def test_a_lone_event_is_written_at_once(taken: GroupCommit, batches: Batches) -> None:
    """Nothing waits for company."""
    run(taken.store(incoming("evt_1")))
    assert batches == [["evt_1"]]


def test_what_comes_in_the_next_steps_comes_along(taken: GroupCommit, batches: Batches) -> None:
    """As long as each step of the loop brings one more; without a timer, and not for ever."""

    async def story(count: int) -> None:
        storing = []
        for number in range(count):
            storing.append(asyncio.create_task(taken.store(incoming(f"evt_{number:02}"))))
            await asyncio.sleep(0)
        await asyncio.gather(*storing)

    keys = [f"evt_{number:02}" for number in range(48)]
    run(story(5))
    assert batches == [keys[:5]]
    batches.clear()
    run(story(48))
    assert 30 <= len(batches[0]) <= 34


def test_events_at_once_share_transactions(
    store: Store, taken: GroupCommit, batches: Batches
) -> None:
    """Three hundred events at once are a handful of commits, and each gets its own id."""
    keys = [f"evt_{number}" for number in range(300)]
    outcomes = run(store_all(taken, [incoming(key) for key in keys]))
    assert len(batches) <= 6
    assert max(map(len, batches)) <= group_commit.LARGEST_BATCH
    assert kept(store) == {key: outcome.id for key, outcome in zip(keys, outcomes, strict=True)}


def test_equal_events_at_once_are_one_row(store: Store, taken: GroupCommit) -> None:
    """Of a hundred only one is new, and all are told the same id."""
    outcomes = run(store_all(taken, [incoming("evt_1")] * 100))
    assert sum(not outcome.duplicate for outcome in outcomes) == 1
    assert {outcome.id for outcome in outcomes} == {kept(store)["evt_1"]}


@pytest.mark.parametrize("poison", [POISON, "a\x00b"])
def test_a_poisonous_event_does_not_hurt_its_neighbours(
    store: Store, taken: GroupCommit, log: Log, poison: str
) -> None:
    """What the database cannot take fails alone, and the rest of its batch is stored."""
    if poison != POISON and not store.database.is_postgresql:
        pytest.skip("SQLite takes a NUL in text")
    keys = [f"evt_{number}" for number in range(20)]
    incoming_events = [*map(incoming, keys[:10]), incoming(poison), *map(incoming, keys[10:])]
    outcomes = run(store_all(taken, incoming_events))
    assert isinstance(outcomes.pop(10), StoreUnavailable)
    assert all(isinstance(outcome, StoreResult) for outcome in outcomes)
    assert sorted(kept(store)) == sorted(keys)
    assert log.of("group_commit.commit_failed")


@pytest.mark.usefixtures("_impatient")
def test_trouble_of_the_database_refuses_the_batch_once(
    store_url: str, batches: Batches, log: Log
) -> None:
    """While the database takes nothing, everybody is told so, without a try for each."""
    store = open_store(store_url)
    taken = GroupCommit(store.database, store.vault)
    with inbox_locked(store_url):
        outcomes = run(store_all(taken, [incoming(f"evt_{number}") for number in range(50)]))
    assert all(isinstance(outcome, StoreUnavailable) for outcome in outcomes)
    assert len({id(outcome) for outcome in outcomes}) == 50
    assert len(batches) <= 4
    assert log.of("group_commit.commit_failed")
    (good,) = run(store_all(taken, [incoming("evt_1")]))
    assert kept(store) == {"evt_1": good.id}
    taken.close()
    store.database.dispose()


def test_a_slow_commit_does_not_hold_the_loop(store: Store, taken: GroupCommit) -> None:
    """While the write waits for a lock the loop goes on, and afterwards the event is stored."""

    async def story() -> StoreResult:
        with ExitStack() as stack:
            stack.enter_context(inbox_locked(store.url))
            storing = asyncio.create_task(taken.store(incoming("evt_1")))
            for _ in range(20):
                await asyncio.sleep(0.01)
            assert not storing.done()
        return await storing

    stored = run(story())
    assert kept(store) == {"evt_1": stored.id}


def test_the_queue_has_an_end(
    store: Store, taken: GroupCommit, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With too many waiting the next one is refused at once, and the waiting ones are stored."""
    monkeypatch.setattr(group_commit, "DEEPEST_QUEUE", 5)
    in_hand = 5 + flights_of(store)

    async def story() -> None:
        with ExitStack() as stack:
            stack.enter_context(inbox_locked(store.url))
            storing = await plug(taken, store)
            storing += [
                asyncio.create_task(taken.store(incoming(f"evt_{number}"))) for number in range(5)
            ]
            await asyncio.sleep(0)
            with pytest.raises(StoreUnavailable, match="too many"):
                await taken.store(incoming("one too many"))
        await asyncio.gather(*storing)

    run(story())
    assert len(kept(store)) == in_hand


def test_an_event_whose_request_gave_up_is_stored_all_the_same(
    store: Store, taken: GroupCommit
) -> None:
    """After the deadline nobody waits for the event, in flight or queued, but it is not lost."""

    async def story() -> None:
        with ExitStack() as stack:
            stack.enter_context(inbox_locked(store.url))
            storing = [
                asyncio.create_task(taken.store(incoming(f"evt_{number}"))) for number in range(5)
            ]
            _, waiting = await asyncio.wait(storing, timeout=0.05)
            for task in waiting:
                task.cancel()
            await asyncio.gather(*storing, return_exceptions=True)
        await until(lambda: len(kept(store)) == 5)

    run(story())


def test_each_is_told_at_its_own_deadline(store: Store, taken: GroupCommit) -> None:
    """Whoever's time is over first is told first, though others came before."""

    async def story() -> None:
        now = time.monotonic()
        with ExitStack() as stack:
            stack.enter_context(inbox_locked(store.url))
            patient, hasty, next_one = (
                asyncio.create_task(taken.store(incoming(key), now + seconds))
                for key, seconds in (("evt_1", 60), ("evt_2", 0.1), ("evt_3", 0.2))
            )
            done, _ = await asyncio.wait([patient, hasty, next_one], return_when=FIRST_EXCEPTION)
            assert done == {hasty}
            with pytest.raises(StoreUnavailable, match="in time"):
                await next_one
            assert time.monotonic() - now < 1.5
            assert not patient.done()
        assert not (await patient).duplicate
        await until(lambda: len(kept(store)) == 3)

    run(story())


def test_a_failure_that_nobody_waits_for_makes_no_noise(
    taken: GroupCommit, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A write that breaks after its request gave up leaves no unheard exception behind."""
    go_on = threading.Event()

    def broken(*_: object) -> bool:
        go_on.wait(10)
        raise RuntimeError

    monkeypatch.setattr(inbox, "insert_new", broken)

    async def story() -> None:
        storing = asyncio.create_task(taken.store(incoming("evt_1")))
        await asyncio.wait([storing], timeout=0.05)
        storing.cancel()
        await asyncio.gather(storing, return_exceptions=True)
        go_on.set()
        with pytest.raises(StoreUnavailable):
            await taken.store(incoming("evt_2"))

    run(story())


def test_even_a_broken_writer_answers(
    taken: GroupCommit, monkeypatch: pytest.MonkeyPatch, log: Log
) -> None:
    """Whatever ends a write, each of its requests hears of it."""

    def broken(_: GroupCommit, __: object) -> list[StoreResult | StoreUnavailable]:
        raise RuntimeError

    monkeypatch.setattr(GroupCommit, "_write", broken)
    outcomes = run(store_all(taken, [incoming(str(number)) for number in range(5)]))
    assert all(isinstance(outcome, StoreUnavailable) for outcome in outcomes)
    assert {line["error"] for line in log.of("group_commit.write_broke")} == {"RuntimeError"}


@pytest.mark.parametrize("sheltered", [False, True])
def test_a_disk_that_fails_to_flush_ends_the_process(
    sqlite_store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sheltered: bool
) -> None:
    """The event is refused or sheltered, never taken for stored, and the process starts afresh."""
    stops: list[int] = []
    spool = Spool(tmp_path / "spool") if sheltered else None
    taken = GroupCommit(sqlite_store.database, sqlite_store.vault, spool, lambda: stops.append(1))

    def insert_new(*_: object) -> bool:
        broken = sqlite3.OperationalError("disk I/O error")
        broken.sqlite_errorcode = sqlite3.SQLITE_IOERR_FSYNC
        raise OperationalError("INSERT", {}, broken)

    monkeypatch.setattr(inbox, "insert_new", insert_new)
    (outcome,) = run(store_all(taken, [incoming("evt_1")]))
    taken.close()
    assert isinstance(outcome, StoreResult if sheltered else StoreUnavailable)
    assert stops == [1]
    assert kept(sqlite_store) == {}
    if spool is not None:
        assert spool_files.depth(tmp_path / "spool") == 1
        spool.close()


def test_closing_ends_what_is_written_and_refuses_the_rest(store: Store) -> None:
    """The event in flight is stored and answered; who waits or comes later is told to go."""
    taken = GroupCommit(store.database, store.vault)
    flights = flights_of(store)

    async def story() -> list[StoreResult | BaseException]:
        with ExitStack() as stack:
            stack.enter_context(inbox_locked(store.url))
            storing = await plug(taken, store)
            storing += [
                asyncio.create_task(taken.store(incoming(f"evt_{number}"))) for number in range(5)
            ]
            await asyncio.sleep(0)
            storing[-1].cancel()
            releasing = threading.Timer(0.1, stack.pop_all().close)
            releasing.start()
            taken.close()
            releasing.join()
        with pytest.raises(StoreUnavailable, match="stopping"):
            await taken.store(incoming("too late"))
        return await asyncio.gather(*storing, return_exceptions=True)

    outcomes = run(story())
    assert all(isinstance(outcome, StoreResult) for outcome in outcomes[:flights])
    assert all(isinstance(outcome, StoreUnavailable) for outcome in outcomes[flights:-1])
    assert isinstance(outcomes[-1], asyncio.CancelledError)
    assert len(kept(store)) == flights


def postgresql_only(store: Store) -> None:
    """Skip where rows are not locked one by one."""
    if not store.database.is_postgresql:
        pytest.skip("SQLite has one writer, so no deadlocks")


def test_equal_keys_in_opposite_order_are_stored_once(store: Store) -> None:
    """Two processes that write the same events at once, from both ends, both succeed."""
    keys = [f"evt_{number}" for number in range(40)]

    def write(process: int) -> list[bool]:
        mine = open_store(store.url)
        taken = GroupCommit(mine.database, mine.vault)
        seen: list[bool] = []
        for turn in range(10):
            batch = [incoming(f"{turn}-{key}") for key in (keys if process else keys[::-1])]
            outcomes = asyncio.run(store_all(taken, batch))
            seen += [isinstance(outcome, StoreResult) for outcome in outcomes]
        taken.close()
        mine.database.dispose()
        return seen

    with ThreadPoolExecutor(2) as pool:
        outcomes = [outcome for seen in pool.map(write, range(2)) for outcome in seen]
    assert len(outcomes) == 800
    assert all(outcomes)
    assert len(kept(store)) == 400


def test_a_deadlock_is_tried_again(
    store: Store, batches: Batches, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A batch that the server picked as a deadlock's victim is tried again until it is stored."""
    postgresql_only(store)
    # Our side alone looks for deadlocks, long after the other one has walked into it.
    options = "-c statement_timeout=20s -c lock_timeout=20s -c deadlock_timeout=2s"
    monkeypatch.setattr(engine, "POSTGRESQL_OPTIONS", options)
    ours = open_store(store.url)
    taken = GroupCommit(ours.database, ours.vault)
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
            storing = pool.submit(lambda: asyncio.run(plugged(taken, store)))
            waiting = "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
            eventually(lambda: watching.execute(waiting).fetchone(), every=0.01)
            insert(other, "a")
            other.commit()
            outcomes = storing.result(20)
    taken.close()
    ours.database.dispose()
    assert [outcome.duplicate for outcome in outcomes] == [False, False, True, True]
    # Twice, or three times if it was back before the other side had taken what it waited for.
    tries = [batch for batch in batches if "a" in batch]
    assert len(tries) > 1
    assert all(batch == ["a", "b"] for batch in tries)


async def plugged(taken: GroupCommit, store: Store) -> list[StoreResult]:
    """Store two events in one batch, after as many as may be in flight."""
    plugs = await plug(taken, store)
    return await asyncio.gather(*plugs, *(taken.store(incoming(name)) for name in "ab"))


def test_a_deadlock_without_end_is_given_up(
    taken: GroupCommit, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After three attempts the sender is asked to come again."""
    attempts: list[int] = []

    class Deadlock(Exception):
        sqlstate = "40P01"

    def deadlocked(*_: object) -> bool:
        attempts.append(1)
        raise OperationalError("INSERT", {}, Deadlock())

    monkeypatch.setattr(inbox, "insert_new", deadlocked)
    with pytest.raises(StoreUnavailable):
        run(taken.store(incoming("evt_1")))
    assert len(attempts) == 3
