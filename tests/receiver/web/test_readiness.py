"""Health and readiness, with each part available and unavailable."""

from __future__ import annotations

import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import text

from receiver import clock, queue
from receiver.database import heartbeats, sqlite
from receiver.web import readiness
from receiver.web.readiness import Readiness
from tests.receiver.database.locks import inbox_locked
from tests.receiver.web.conftest import Receiver, Start
from tests.support import webhooks
from tests.support.ports import free_port
from tests.support.stores import Store
from tests.support.waiting import eventually


@pytest.mark.parametrize(
    ("away", "status", "word"),
    [
        (set(), 200, "ok"),
        ({"worker"}, 200, "degraded"),
        ({"broker"}, 200, "degraded"),
        ({"database", "worker"}, 503, "unready"),
    ],
)
def test_readiness(store_url: str, start: Start, away: set[str], status: int, word: str) -> None:
    """Webhooks are accepted without worker and broker, and not without the database."""
    lost = {"REDIS_URL": f"redis://127.0.0.1:{free_port()}/0"} if "broker" in away else {}
    receiver = start(store_url, **lost)
    if "database" in away:
        with receiver.store.database.transaction() as session:
            session.execute(text("DROP TABLE heartbeats"))
    elif "worker" not in away:
        with receiver.store.database.transaction() as session:
            heartbeats.beat(session, "worker", clock.now())
    answer = receiver.ask("GET", "/readyz")
    parts = {part: "away" if part in away else "ok" for part in ("database", "broker", "worker")}
    if "database" in away:
        missing = (
            "a table is" if receiver.store.database.is_postgresql else "a table or a column is"
        )
        parts["database"] = f"{missing} missing"
    assert (answer.status, answer.json()) == (status, {"status": word, "parts": parts})


def test_a_locked_database_is_not_ready(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While another process holds the write lock, nothing can be stored; then it is ready again."""
    monkeypatch.setattr(sqlite, "BUSY_SECONDS", 0.2)
    with inbox_locked(receiver.store.url):
        assert receiver.ask("GET", "/readyz").json()["parts"]["database"] == "locked"
    eventually(lambda: receiver.ask("GET", "/readyz").json()["parts"]["database"] == "ok")


def test_health_needs_no_other_part(start: Start) -> None:
    """Health depends on the process alone, with GET and HEAD."""
    receiver = start(REDIS_URL="redis://127.0.0.1:1/0")
    with receiver.store.database.transaction() as session:
        session.execute(text("DROP TABLE heartbeats"))
    assert receiver.ask("GET", "/healthz").json() == {"status": "ok"}
    head = receiver.ask("HEAD", "/healthz")
    assert (head.status, head.body) == (200, b"")


def test_concurrent_requests_share_one_check(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hundred requests to a hanging broker cause one check, and webhooks are accepted."""
    proceed = threading.Event()
    checks: list[int] = []

    def hang(_: object) -> bool:
        checks.append(1)
        return proceed.wait(20)

    monkeypatch.setattr(queue, "reachable", hang)
    monkeypatch.setattr(readiness, "CHECK_TIMEOUT_SECONDS", 0.1)
    receiver = start()
    started = time.perf_counter()
    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(lambda _: receiver.ask("GET", "/readyz"), range(100)))
    assert time.perf_counter() - started < 10
    assert {answer.json()["parts"]["broker"] for answer in answers} == {"away"}
    assert receiver.send(webhooks.virtualsms_v1()).status == 202
    assert len(checks) == 1
    proceed.set()


def test_a_result_is_not_cached(sqlite_store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A request after the end of a check starts another."""
    answers = iter([False, True])
    monkeypatch.setattr(queue, "reachable", lambda _: next(answers))
    checking = Readiness(
        sqlite_store.database, queue.Waker(queue.celery_app("redis://127.0.0.1:1"))
    )

    async def twice() -> list[bool]:
        return [(await checking.check()).parts["broker"] == "ok" for _ in range(2)]

    assert asyncio.run(twice()) == [False, True]
