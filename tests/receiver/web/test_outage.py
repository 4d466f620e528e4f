"""Database outages: every acknowledged webhook is in the database afterwards."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import pytest
from sqlmodel import select

from receiver.inbox import group_commit, spool
from receiver.inbox.spool import EventAlias
from receiver.inbox.store import InboxEvent
from tests.receiver.conftest import Log
from tests.receiver.web.conftest import Answer, Receiver, Start
from tests.support import stores, webhooks
from tests.support.postgres import PostgresServer
from tests.support.waiting import eventually

# Seconds until the receiver treats the database as down.
DATABASE_TIMEOUT = 0.5


@pytest.fixture(scope="module")
def _server() -> Iterator[PostgresServer]:
    """A PostgreSQL server for this module."""
    with PostgresServer() as server:
        yield server


@pytest.fixture
def server(_server: PostgresServer) -> PostgresServer:
    """A PostgreSQL server to stop and freeze; it runs when the test begins."""
    return _server if _server.running else _server.start()


@pytest.fixture
def url(server: PostgresServer) -> str:
    """The address of a migrated database on it."""
    made = server.url_of(server.create_database())
    stores.prepare(made)
    return made


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The spool's directory."""
    return tmp_path / "spool"


@pytest.fixture
def with_spool(start: Start, url: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Receiver:
    """A receiver with a spool, on that database."""
    monkeypatch.setattr(group_commit, "DATABASE_SECONDS", DATABASE_TIMEOUT)
    return start(url, SPOOL_DIR=str(folder))


def send(receiver: Receiver, first: int, count: int) -> list[Answer]:
    """Send ``count`` different events, eight at a time."""
    numbers = range(first, first + count)
    with ThreadPoolExecutor(8) as pool:
        return list(pool.map(lambda n: receiver.send(event(n)), numbers))


@cache
def event(number: int) -> webhooks.Webhook:
    """One of many events."""
    return webhooks.virtualsms_v1(event_id=f"evt_{number}", order=f"ord_{number}")


def stored_events(url: str) -> dict[str, str]:
    """Return the ids of the stored events by their keys."""
    store = stores.open_store(url)
    try:
        with store.database.reading() as session:
            return {row.key: row.id for row in session.exec(select(InboxEvent))}
    finally:
        store.database.dispose()


def wait_until_drained(folder: Path) -> None:
    """Wait until the spool is empty."""
    eventually(lambda: spool.depth(folder) == 0, within=20)


def test_a_stopped_database_loses_no_event(
    with_spool: Receiver, server: PostgresServer, url: str, folder: Path
) -> None:
    """Every webhook before, during and after the outage gets 202 and is stored once.

    A receiver with a spool is degraded and not unready. A corrupt file in the spool does not keep
    later events from the database.
    """
    broken = folder / "00000000000000000000000000.db"
    broken.write_bytes(b"no database at all" * 100)
    answers = send(with_spool, 0, 10)
    server.stop()
    answers += send(with_spool, 10, 60)
    again = with_spool.send(event(12))
    ready = with_spool.ask("GET", "/readyz")
    assert (ready.status, ready.json()["status"]) == (200, "degraded")
    assert ready.json()["parts"]["database"] == "away"
    server.start()
    answers += send(with_spool, 70, 10)
    wait_until_drained(folder)
    writer: group_commit.GroupCommit = with_spool.app.state.services.group_commit
    eventually(lambda: not writer.database_down.is_set(), within=20)
    answers += send(with_spool, 80, 1)
    assert {answer.status for answer in answers} == {202}
    assert (again.status, again.json()["status"]) == (200, "duplicate")
    assert stored_events(url) == {
        f"evt_{n}": answer.json()["event"] for n, answer in enumerate(answers)
    }


def test_a_frozen_database_is_not_waited_for(
    with_spool: Receiver, server: PostgresServer, url: str, folder: Path
) -> None:
    """Webhooks are acknowledged quickly; the hanging write causes no duplicate."""
    server.freeze()
    began = time.monotonic()
    answers = send(with_spool, 0, 40)
    took = time.monotonic() - began
    server.thaw()
    wait_until_drained(folder)
    assert {answer.status for answer in answers} == {202}
    assert took < DATABASE_TIMEOUT + 3
    wanted = {f"evt_{n}": answer.json()["event"] for n, answer in enumerate(answers)}
    eventually(lambda: stored_events(url) == wanted, within=20)


def test_a_duplicate_from_another_host_is_an_alias(
    with_spool: Receiver, start: Start, server: PostgresServer, url: str, folder: Path
) -> None:
    """An event that two hosts acknowledged in an outage is one row with two ids."""
    other = start(url, SPOOL_DIR=str(folder.with_name("elsewhere")))
    server.stop()
    ids = {receiver.send(event(1)).json()["event"] for receiver in (with_spool, other)}
    assert len(ids) == 2
    server.start()
    wait_until_drained(folder)
    wait_until_drained(folder.with_name("elsewhere"))
    (first,) = stored_events(url).values()
    store = stores.open_store(url)
    with store.database.reading() as session:
        (alias,) = session.exec(select(EventAlias))
    store.database.dispose()
    assert {alias.id, alias.first_id} == ids
    assert alias.first_id == first


def test_without_a_spool_an_outage_is_503(start: Start, server: PostgresServer, url: str) -> None:
    """Webhooks get 503 with Retry-After, and are accepted after the outage."""
    receiver = start(url)
    server.stop()
    refused = receiver.send(event(1))
    refused.problem(503)
    assert int(refused.headers["retry-after"]) > 0
    server.start()
    eventually(lambda: receiver.send(event(1)).status in {200, 202}, within=20)
    assert list(stored_events(url)) == ["evt_1"]


def test_the_next_process_drains_the_spool(
    with_spool: Receiver, start: Start, server: PostgresServer, folder: Path, log: Log
) -> None:
    """Spooled events survive their process, and the next one starts without a database.

    The digest key is saved beside the spool.
    """
    server.stop()
    answers = send(with_spool, 0, 5)
    with_spool.finish()
    restarted = start(with_spool.url, SPOOL_DIR=str(folder))
    answers += send(restarted, 5, 1)
    assert log.of("database.unavailable_at_start")
    server.start()
    wait_until_drained(folder)
    assert stored_events(with_spool.url) == {
        f"evt_{n}": answer.json()["event"] for n, answer in enumerate(answers)
    }
