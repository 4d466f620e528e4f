"""The database goes away while webhooks come: what is acknowledged is there afterwards."""

from __future__ import annotations

import time
from collections.abc import Callable
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

# What a provider waits for is 10 seconds; the database is given this part of it.
PATIENCE = 0.5


@pytest.fixture
def server(make_postgres: Callable[[], PostgresServer]) -> PostgresServer:
    """A PostgreSQL server to stop and freeze."""
    return make_postgres()


@pytest.fixture
def url(server: PostgresServer) -> str:
    """The address of a migrated database on it."""
    made = server.url_of(server.create_database())
    stores.prepare(made)
    return made


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where events take spool."""
    return tmp_path / "spool"


@pytest.fixture
def sheltered(start: Start, url: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Receiver:
    """A receiver with a spool, on that database."""
    monkeypatch.setattr(group_commit, "DATABASE_SECONDS", PATIENCE)
    return start(url, SPOOL_DIR=str(folder))


def send(receiver: Receiver, first: int, count: int) -> list[Answer]:
    """So many different events, eight at a time."""
    numbers = range(first, first + count)
    with ThreadPoolExecutor(8) as pool:
        return list(pool.map(lambda n: receiver.send(event(n)), numbers))


@cache
def event(number: int) -> webhooks.Webhook:
    """One of many events."""
    return webhooks.virtualsms_v1(event_id=f"evt_{number}", order=f"ord_{number}")


def kept(url: str) -> dict[str, str]:
    """The ids of the inbox's rows by their keys; none while the database is away."""
    store = stores.open_store(url)
    try:
        with store.database.reading() as session:
            return {row.key: row.id for row in session.exec(select(InboxEvent))}
    finally:
        store.database.dispose()


def drained(folder: Path) -> None:
    """Wait until nothing is sheltered any more."""
    eventually(lambda: spool.depth(folder) == 0, within=20)


def test_a_stopped_database_costs_no_event(
    sheltered: Receiver, server: PostgresServer, url: str, folder: Path
) -> None:
    """Before, during and after it is away every webhook gets 202, and all are kept once."""
    answers = send(sheltered, 0, 10)
    server.stop()
    answers += send(sheltered, 10, 60)
    again = sheltered.send(event(12))
    server.start()
    answers += send(sheltered, 70, 10)
    drained(folder)
    assert {answer.status for answer in answers} == {202}
    assert (again.status, again.json()["status"]) == (200, "duplicate")
    assert kept(url) == {f"evt_{n}": answer.json()["event"] for n, answer in enumerate(answers)}


def test_a_frozen_database_is_not_waited_for(
    sheltered: Receiver, server: PostgresServer, url: str, folder: Path
) -> None:
    """Every webhook is answered soon; the write that hung succeeds later, and doubles nothing."""
    server.freeze()
    began = time.monotonic()
    answers = send(sheltered, 0, 40)
    took = time.monotonic() - began
    server.thaw()
    drained(folder)
    assert {answer.status for answer in answers} == {202}
    assert took < PATIENCE + 3
    wanted = {f"evt_{n}": answer.json()["event"] for n, answer in enumerate(answers)}
    eventually(lambda: kept(url) == wanted, within=20)


def test_a_broken_file_does_not_keep_the_receiver_from_its_database(
    sheltered: Receiver, server: PostgresServer, url: str, folder: Path
) -> None:
    """After an outage events go to the database again, whatever lies in the spool's directory."""
    (folder / "00000000000000000000000000.db").write_bytes(b"no database at all" * 100)
    server.stop()
    assert sheltered.send(event(1)).status == 202
    server.start()
    drained(folder)
    taken: group_commit.GroupCommit = sheltered.app.state.services.group_commit
    eventually(lambda: not taken.away.is_set(), within=20)
    assert sheltered.send(event(2)).status == 202
    assert sorted(kept(url)) == ["evt_1", "evt_2"]


def test_a_duplicate_from_another_host_leads_to_the_first(
    sheltered: Receiver, start: Start, server: PostgresServer, url: str, folder: Path
) -> None:
    """An event that two hosts acknowledged during the outage is one row with two ids."""
    other = start(url, SPOOL_DIR=str(folder.with_name("elsewhere")))
    server.stop()
    ids = {receiver.send(event(1)).json()["event"] for receiver in (sheltered, other)}
    assert len(ids) == 2
    server.start()
    drained(folder)
    drained(folder.with_name("elsewhere"))
    (first,) = kept(url).values()
    store = stores.open_store(url)
    with store.database.reading() as session:
        (alias,) = session.exec(select(EventAlias))
    store.database.dispose()
    assert {alias.id, alias.first_id} == ids
    assert alias.first_id == first


def test_without_a_spool_nothing_false_is_said(
    start: Start, server: PostgresServer, url: str
) -> None:
    """503 with Retry-After while the database is away; the same webhook is taken afterwards."""
    receiver = start(url)
    server.stop()
    refused = receiver.send(event(1))
    refused.problem(503)
    assert int(refused.headers["retry-after"]) > 0
    server.start()
    eventually(lambda: receiver.send(event(1)).status in {200, 202}, within=20)
    assert list(kept(url)) == ["evt_1"]


def test_readiness_while_the_database_is_away(sheltered: Receiver, server: PostgresServer) -> None:
    """A receiver with a spool goes on taking webhooks, so the load balancer should know."""
    server.stop()
    answer = sheltered.ask("GET", "/readyz")
    assert (answer.status, answer.json()["status"]) == (200, "degraded")
    assert answer.json()["parts"]["database"] == "away"


def test_a_receiver_that_starts_in_an_outage_takes_webhooks(
    sheltered: Receiver, start: Start, server: PostgresServer, folder: Path, log: Log
) -> None:
    """The key to the digests is remembered beside the spool: restarting must not close the door."""
    sheltered.finish()
    server.stop()
    restarted = start(sheltered.url, SPOOL_DIR=str(folder))
    answer = restarted.send(event(1))
    assert answer.status == 202
    assert log.of("database.away_at_start")
    server.start()
    drained(folder)
    assert kept(sheltered.url) == {"evt_1": answer.json()["event"]}


def test_what_a_stopped_receiver_left_is_drained_by_the_next(
    sheltered: Receiver, start: Start, server: PostgresServer, url: str, folder: Path
) -> None:
    """Events that took spool survive the end of their process, and wake the worker."""
    server.stop()
    answers = send(sheltered, 0, 5)
    sheltered.finish()
    server.start()
    start(url, SPOOL_DIR=str(folder))
    drained(folder)
    assert kept(url) == {f"evt_{n}": answer.json()["event"] for n, answer in enumerate(answers)}
