"""The two questions of a load balancer, with every part there and away."""

from __future__ import annotations

import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import text

from receiver import clock, queue
from receiver.database import heartbeats
from receiver.web import readiness
from receiver.web.readiness import Readiness
from tests.receiver.database.locks import inbox_locked
from tests.receiver.web.conftest import Receiver, Start
from tests.support import webhooks
from tests.support.ports import free_port
from tests.support.stores import Store


def beat(receiver: Receiver) -> None:
    """Do what a worker does every few seconds."""
    with receiver.store.database.transaction() as session:
        heartbeats.beat(session, "worker", clock.now())


def test_with_every_part_there_it_is_ready(store_url: str, start: Start) -> None:
    """Database, broker and a worker that lately worked: all is well."""
    receiver = start(store_url)
    beat(receiver)
    answer = receiver.ask("GET", "/readyz")
    assert (answer.status, answer.json()) == (
        200,
        {"status": "ok", "parts": {"database": "ok", "broker": "ok", "worker": "ok"}},
    )


def test_without_a_worker_it_is_degraded(receiver: Receiver) -> None:
    """Webhooks are accepted, and wait."""
    answer = receiver.ask("GET", "/readyz")
    assert (answer.status, answer.json()) == (
        200,
        {"status": "degraded", "parts": {"database": "ok", "broker": "ok", "worker": "away"}},
    )


def test_without_a_broker_it_is_degraded(start: Start) -> None:
    """Webhooks are accepted, and the sweep finds them."""
    receiver = start(REDIS_URL=f"redis://127.0.0.1:{free_port()}/0")
    beat(receiver)
    answer = receiver.ask("GET", "/readyz")
    assert (answer.status, answer.json()) == (
        200,
        {"status": "degraded", "parts": {"database": "ok", "broker": "away", "worker": "ok"}},
    )


def test_without_a_database_it_is_not_ready(store_url: str, start: Start) -> None:
    """Nothing can be accepted, so nothing should be sent here."""
    receiver = start(store_url)
    with receiver.store.database.transaction() as session:
        session.execute(text("DROP TABLE heartbeats"))
    answer = receiver.ask("GET", "/readyz")
    assert (answer.status, answer.json()) == (
        503,
        {"status": "unready", "parts": {"database": "away", "broker": "ok", "worker": "away"}},
    )


def test_a_writer_does_not_make_it_unready(receiver: Receiver) -> None:
    """The question only reads, and so waits for nobody."""
    with inbox_locked(receiver.store.url):
        assert receiver.ask("GET", "/readyz").json()["parts"]["database"] == "ok"


def test_it_is_alive_whatever_is_away(start: Start) -> None:
    """Health is the process's own, asked with GET or HEAD."""
    receiver = start(REDIS_URL="redis://127.0.0.1:1/0")
    with receiver.store.database.transaction() as session:
        session.execute(text("DROP TABLE heartbeats"))
    assert receiver.ask("GET", "/healthz").json() == {"status": "ok"}
    head = receiver.ask("HEAD", "/healthz")
    assert (head.status, head.body) == (200, b"")


def test_a_part_that_hangs_keeps_one_thread_however_many_ask(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hundred questions are one question, each is answered in time, and events go on."""
    go_on = threading.Event()
    asked: list[int] = []

    def hang(_: object) -> bool:
        asked.append(1)
        return go_on.wait(20)

    monkeypatch.setattr(queue, "reachable", hang)
    monkeypatch.setattr(readiness, "CHECK_SECONDS", 0.3)
    receiver = start()
    started = time.perf_counter()
    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(lambda _: receiver.ask("GET", "/readyz"), range(100)))
    assert time.perf_counter() - started < 10
    assert {answer.json()["parts"]["broker"] for answer in answers} == {"away"}
    assert receiver.send(webhooks.virtualsms_v1()).status == 202
    assert len(asked) == 1
    go_on.set()


def test_an_answer_is_not_remembered(sqlite_store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next question after an answer is asked anew."""
    answers = iter([False, True])
    monkeypatch.setattr(queue, "reachable", lambda _: next(answers))
    asking = Readiness(sqlite_store.database, queue.Waker(queue.celery_app("redis://127.0.0.1:1")))

    async def twice() -> list[bool]:
        return [(await asking.parts())["broker"] for _ in range(2)]

    assert asyncio.run(twice()) == [False, True]
