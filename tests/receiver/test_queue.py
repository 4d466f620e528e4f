"""Waking: messages with ids only, and callers that never wait for the broker."""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis
from celery import Celery

from receiver import queue
from receiver.queue import Waker
from tests.receiver.conftest import Log
from tests.support.ports import free_port
from tests.support.valkey import ValkeyServer
from tests.support.waiting import eventually

LIST = "codecatch:codecatch.events"
Make = Callable[[str], Waker]


@pytest.fixture
def make_waker() -> Iterator[Make]:
    """Create wakers on any broker."""
    wakers: list[Waker] = []

    def make(url: str) -> Waker:
        wakers.append(Waker(queue.celery_app(url)))
        return wakers[-1]

    yield make
    for waker in wakers:
        waker.close()
        waker.app.close()


@pytest.fixture
def frozen(
    make_valkey: Callable[[], ValkeyServer], monkeypatch: pytest.MonkeyPatch
) -> ValkeyServer:
    """A broker to freeze, whose clients wait a fifth of the usual time."""
    options = queue.SETTINGS["broker_transport_options"]
    monkeypatch.setitem(options, "socket_timeout", options["socket_timeout"] / 5)
    return make_valkey()


def messages(url: str, name: str = LIST) -> list[dict[str, Any]]:
    """The messages in a queue, oldest first, with decoded bodies."""
    with redis.Redis.from_url(url, socket_timeout=2) as client:
        raw: Any = client.lrange(name, 0, -1)
    decoded = [json.loads(message) for message in reversed(raw)]
    return [{**m, "body": json.loads(base64.b64decode(m["body"]))} for m in decoded]


def ids(url: str, name: str = LIST) -> list[str]:
    """The row ids of all messages in a queue."""
    return [row for message in messages(url, name) for row in message["body"][0][0]]


def test_a_message_contains_only_ids(make_waker: Make, broker_url: str) -> None:
    """A message contains the task's name and the rows' ids."""
    make_waker(broker_url).wake(queue.HANDLE_EVENTS, ["01A", "01B"])
    (message,) = eventually(lambda: messages(broker_url))
    assert message["content-type"] == "application/json"
    assert message["headers"]["task"] == queue.HANDLE_EVENTS
    args, kwargs, _ = message["body"]
    assert args == [["01A", "01B"]]
    assert kwargs == {}


def test_rows_share_messages_up_to_a_limit(
    make_waker: Make, broker_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Many ids share few messages, and each id is sent once."""
    size = queue.IDS_PER_MESSAGE[queue.HANDLE_EVENTS]
    rows = [f"row{number}" for number in range(2 * size + 20)]
    monkeypatch.setattr(queue, "IDS_PER_MESSAGE", {**queue.IDS_PER_MESSAGE, "codecatch.x": 1})
    make_waker(broker_url).wake(queue.HANDLE_EVENTS, rows + rows)
    eventually(lambda: len(ids(broker_url)) == len(rows))
    assert ids(broker_url) == rows
    assert [len(message["body"][0][0]) for message in messages(broker_url)] == [size, size, 20]


def test_rows_of_one_loop_iteration_share_a_message(make_waker: Make, broker_url: str) -> None:
    """Also if the waker is closed within the iteration."""
    waker = make_waker(broker_url)

    async def scenario() -> None:
        waker.wake_soon(queue.HANDLE_EVENTS, "a")
        waker.wake_soon(queue.HANDLE_EVENTS, "b")
        await asyncio.sleep(0)
        await asyncio.to_thread(eventually, lambda: len(messages(broker_url)) == 1)
        waker.wake_soon(queue.HANDLE_EVENTS, "c")
        waker.close()

    asyncio.run(scenario())
    assert ids(broker_url) == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("task", "name"),
    [
        (queue.CONFIRM_ORDERS, "codecatch:codecatch.confirmations"),
        (queue.DELIVER, "codecatch:codecatch.deliveries"),
    ],
)
def test_messages_for_outbound_calls_are_small(
    make_waker: Make, broker_url: str, task: str, name: str
) -> None:
    """A slow call delays few others, and each task has its own queue."""
    size = queue.IDS_PER_MESSAGE[task]
    rows = [f"{number:02}" for number in range(2 * size)]
    make_waker(broker_url).wake(task, rows)
    eventually(lambda: len(messages(broker_url, name)) == 2)
    assert sorted(ids(broker_url, name)) == rows


def test_only_rows_of_one_group_share_a_message(make_waker: Make, broker_url: str) -> None:
    """A row that may crash its worker, for instance, can be sent alone."""
    waker = make_waker(broker_url)
    waker.wake(queue.HANDLE_EVENTS, ["a"], group="a")
    waker.wake(queue.HANDLE_EVENTS, ["b"], group="b")
    eventually(lambda: len(messages(broker_url)) == 2)


def test_wake_is_thread_safe(make_waker: Make, broker_url: str) -> None:
    """With many threads no id is lost or sent twice."""
    waker = make_waker(broker_url)

    def wake(thread: int) -> None:
        for number in range(50):
            waker.wake(queue.HANDLE_EVENTS, [f"{thread}-{number}"])

    threads = [threading.Thread(target=wake, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    eventually(lambda: len(ids(broker_url)) >= 400)
    assert len(set(ids(broker_url))) == len(ids(broker_url)) == 400


def test_waking_survives_a_broker_outage(
    make_waker: Make, make_valkey: Callable[[], ValkeyServer], log: Log
) -> None:
    """While the broker is down, waking neither waits nor raises; later it works again."""
    server = make_valkey()
    server.stop()
    waker = make_waker(server.url)
    started = time.perf_counter()
    for number in range(1_000):
        waker.wake(queue.HANDLE_EVENTS, [f"lost{number}"])
    assert time.perf_counter() - started < 1
    eventually(lambda: log.of("queue.wake_failed"))
    server.start()

    def woken() -> bool:
        waker.wake(queue.HANDLE_EVENTS, ["found"])
        return "found" in ids(server.url)

    eventually(woken, every=0.2)


def test_a_frozen_broker_does_not_block_callers(
    make_waker: Make, frozen: ValkeyServer, log: Log
) -> None:
    """While the broker hangs, waking returns at once; later messages are sent again."""
    server = frozen
    waker = make_waker(server.url)
    waker.wake(queue.HANDLE_EVENTS, ["before"])
    eventually(lambda: ids(server.url) == ["before"])
    server.freeze()
    started = time.perf_counter()
    for number in range(100):
        waker.wake(queue.HANDLE_EVENTS, [f"lost{number}"])
    assert time.perf_counter() - started < 1
    eventually(lambda: log.of("queue.wake_failed"))
    server.thaw()

    def woken() -> bool:
        waker.wake(queue.HANDLE_EVENTS, ["after"])
        return "after" in ids(server.url)

    eventually(woken, every=0.2)


def test_retries_back_off_exponentially(make_waker: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """The delay doubles with each failure, up to a second, and a success resets it."""
    calls, paused, sleep = itertools.count(1), list[float](), time.sleep

    def publish(*_: object) -> None:
        if next(calls) != 7:
            raise OSError

    def pause(seconds: float) -> None:
        if threading.current_thread().name == "waker":
            paused.append(seconds)
        else:
            sleep(seconds)

    monkeypatch.setattr(queue, "publish", publish)
    monkeypatch.setattr(queue, "_ROW_SECONDS", 0.0)
    monkeypatch.setattr(time, "sleep", pause)
    waker = make_waker("redis://127.0.0.1:1/0")

    def has_paused() -> bool:
        waker.wake(queue.HANDLE_EVENTS, ["row"])
        return len(paused) >= 7

    eventually(has_paused)
    assert paused[:7] == [0.1, 0.2, 0.4, 0.8, 1.0, 1.0, 0.1]


def test_a_stream_of_rows_shares_messages(
    make_waker: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first rows are sent at once; later ones are collected into batches."""
    messages: list[list[str]] = []
    monkeypatch.setattr(queue, "publish", lambda _, __, rows: messages.append(list(rows)))
    monkeypatch.setattr(queue, "_ROW_SECONDS", 1.0)
    monkeypatch.setattr(queue, "_MAX_BATCH_DELAY", 1.0)
    monkeypatch.setattr(queue, "_BURST_SECONDS", 4.0)
    at_once = 5  # the last of them exceeds the burst
    waker = make_waker("redis://127.0.0.1:1/0")
    for number in range(at_once):
        waker.wake(queue.HANDLE_EVENTS, [f"{number}"])
        eventually(lambda: [f"{number}"] in messages)  # noqa: B023 - called within the iteration
    for number in range(10, 20):
        waker.wake(queue.HANDLE_EVENTS, [f"{number}"])
        time.sleep(0.01)
    eventually(lambda: len(messages) > at_once)
    assert messages[at_once] == [f"{number}" for number in range(10, 20)]


def test_the_backlog_is_bounded_and_drops_the_oldest(
    make_waker: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the broker is blocked, memory stays bounded."""
    monkeypatch.setattr(queue, "MAX_BACKLOG", 100)
    release, sending, sent = threading.Event(), threading.Event(), list[str]()

    def publish(_: Celery, __: str, rows: list[str]) -> None:
        sending.set()
        release.wait(10)
        sent.extend(rows)

    monkeypatch.setattr(queue, "publish", publish)
    waker = make_waker("redis://127.0.0.1:1/0")
    waker.wake(queue.HANDLE_EVENTS, ["first"])
    assert sending.wait(10)
    waker.wake(queue.HANDLE_EVENTS, (f"row{number}" for number in range(10_000)))
    release.set()
    waker.close(timeout=10)
    assert sent == ["first", *(f"row{number}" for number in range(9_900, 10_000))]


def test_closing_sends_the_backlog(make_waker: Make, broker_url: str) -> None:
    """A call just before closing is not lost."""
    waker = make_waker(broker_url)
    waker.wake(queue.HANDLE_EVENTS, ["last"])
    waker.close()
    assert ids(broker_url) == ["last"]


def test_closing_does_not_wait_for_a_frozen_broker(
    make_waker: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Closing returns after its time-out."""
    release = threading.Event()
    monkeypatch.setattr(queue, "publish", lambda *_: release.wait(10))
    waker = make_waker("redis://127.0.0.1:1/0")
    waker.wake(queue.HANDLE_EVENTS, ["last"])
    started = time.perf_counter()
    waker.close(timeout=0.1)
    assert time.perf_counter() - started < 2
    release.set()


def test_an_unused_waker_can_be_closed(make_waker: Make) -> None:
    """Without a call there is no thread to wait for."""
    make_waker("redis://127.0.0.1:1/0").close()


def test_the_log_of_a_failure_shows_no_secret(
    make_waker: Make, monkeypatch: pytest.MonkeyPatch, log: Log
) -> None:
    """The log contains the error's class and the number of rows."""

    def publish(*_: object) -> None:
        raise ValueError("password hunter2")

    monkeypatch.setattr(queue, "publish", publish)
    make_waker("redis://127.0.0.1:1/0").wake(queue.HANDLE_EVENTS, ["a", "b"])
    (line,) = eventually(lambda: log.of("queue.wake_failed"))
    assert (line["rows"], line["error"]) == (2, "ValueError")
    assert "hunter2" not in log.text


def test_a_broker_that_answers_is_reachable(broker_url: str) -> None:
    """Repeated checks leave no connection open."""
    app = queue.celery_app(broker_url)
    with redis.Redis.from_url(broker_url) as client:
        before = len(client.client_list())
        assert all(queue.reachable(app) for _ in range(5))
        eventually(lambda: len(client.client_list()) <= before)
    app.close()


@pytest.mark.parametrize("url", ["redis://127.0.0.1:{port}/0", "redis://u:p@ss:{port}x/0"])
def test_a_missing_broker_is_not_reachable(url: str) -> None:
    """A closed port and an invalid URL return False and raise nothing."""
    app = queue.celery_app(url.format(port=free_port()))
    assert not queue.reachable(app)
    app.close()


def test_a_frozen_broker_is_not_reachable(frozen: ValkeyServer) -> None:
    """The check ends in time even without an answer."""
    frozen.freeze()
    app = queue.celery_app(frozen.url)
    started = time.perf_counter()
    assert not queue.reachable(app)
    assert time.perf_counter() - started < 5
    frozen.thaw()
    app.close()


def test_a_queue_is_busy_from_a_certain_depth(
    make_waker: Make, broker_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An empty queue or one with few messages is not busy, and each task has its own queue."""
    monkeypatch.setattr(queue, "BUSY_DEPTH", 2)
    waker = make_waker(broker_url)
    assert not waker.is_busy(queue.HANDLE_EVENTS)
    waker.wake(queue.HANDLE_EVENTS, ["01A"])
    eventually(lambda: len(messages(broker_url)) == 1)
    assert not waker.is_busy(queue.HANDLE_EVENTS)
    waker.wake(queue.HANDLE_EVENTS, ["01B"])
    eventually(lambda: len(messages(broker_url)) == 2)
    assert waker.is_busy(queue.HANDLE_EVENTS)
    assert not waker.is_busy(queue.DELIVER)


def test_a_frozen_broker_is_not_busy(make_waker: Make, frozen: ValkeyServer, log: Log) -> None:
    """A failed check counts as not busy, and ends in time."""
    server = frozen
    waker = make_waker(server.url)
    assert not waker.is_busy(queue.HANDLE_EVENTS)
    server.freeze()
    started = time.perf_counter()
    assert not waker.is_busy(queue.HANDLE_EVENTS)
    assert time.perf_counter() - started < 8
    assert log.of("queue.check_failed")
    server.thaw()
    assert not waker.is_busy(queue.HANDLE_EVENTS)


def test_only_json_is_read_or_written() -> None:
    """Messages are JSON, and results are not stored on the broker."""
    conf = queue.celery_app("redis://127.0.0.1:1/0").conf
    assert conf.accept_content == ["json"]
    assert conf.task_serializer == "json"
    assert conf.task_ignore_result
    assert set(queue.QUEUE_OF.values()) == {*queue.WORKER_QUEUES, *queue.SENDER_QUEUES}
