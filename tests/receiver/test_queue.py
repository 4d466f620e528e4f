"""Waking: ids only, at no cost to whoever calls, whatever the broker does."""

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
    """Make wakers on any broker."""
    made: list[Waker] = []

    def make(url: str) -> Waker:
        made.append(Waker(queue.celery_app(url)))
        return made[-1]

    yield make
    for waker in made:
        waker.close()
        waker.app.close()


def messages(url: str, name: str = LIST) -> list[dict[str, Any]]:
    """The messages that wait in a queue, oldest first, their bodies decoded."""
    with redis.Redis.from_url(url, socket_timeout=2) as client:
        raw: Any = client.lrange(name, 0, -1)
    decoded = [json.loads(message) for message in reversed(raw)]
    return [{**m, "body": json.loads(base64.b64decode(m["body"]))} for m in decoded]


def ids(url: str, name: str = LIST) -> list[str]:
    """The row ids in all messages that wait in a queue."""
    return [row for message in messages(url, name) for row in message["body"][0][0]]


def test_a_message_holds_ids_and_nothing_else(make_waker: Make, broker_url: str) -> None:
    """On the wire there is the task's name and the rows' ids."""
    make_waker(broker_url).wake(queue.HANDLE_EVENTS, ["01A", "01B"])
    (message,) = eventually(lambda: messages(broker_url))
    assert message["content-type"] == "application/json"
    assert message["headers"]["task"] == queue.HANDLE_EVENTS
    args, kwargs, _ = message["body"]
    assert args == [["01A", "01B"]]
    assert kwargs == {}


def test_rows_share_messages_up_to_a_limit_and_stand_in_one(
    make_waker: Make, broker_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Many ids go in few messages, each id once."""
    size = queue.IDS_PER_MESSAGE[queue.HANDLE_EVENTS]
    rows = [f"row{number}" for number in range(2 * size + 20)]
    monkeypatch.setattr(queue, "IDS_PER_MESSAGE", {**queue.IDS_PER_MESSAGE, "codecatch.x": 1})
    make_waker(broker_url).wake(queue.HANDLE_EVENTS, rows + rows)
    eventually(lambda: len(ids(broker_url)) == len(rows))
    assert ids(broker_url) == rows
    assert [len(message["body"][0][0]) for message in messages(broker_url)] == [size, size, 20]


def test_the_rows_of_one_step_of_the_loop_are_one_call(make_waker: Make, broker_url: str) -> None:
    """Also if the waker is closed within it."""
    waker = make_waker(broker_url)

    async def story() -> None:
        waker.wake_soon(queue.HANDLE_EVENTS, "a")
        waker.wake_soon(queue.HANDLE_EVENTS, "b")
        await asyncio.sleep(0)
        await asyncio.to_thread(eventually, lambda: len(messages(broker_url)) == 1)
        waker.wake_soon(queue.HANDLE_EVENTS, "c")
        waker.close()

    asyncio.run(story())
    assert ids(broker_url) == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("task", "name"),
    [
        (queue.CONFIRM_ORDERS, "codecatch:codecatch.confirmations"),
        (queue.DELIVER, "codecatch:codecatch.deliveries"),
    ],
)
def test_calls_to_the_outside_go_few_to_a_message(
    make_waker: Make, broker_url: str, task: str, name: str
) -> None:
    """A slow one holds few others, and each task has its queue."""
    size = queue.IDS_PER_MESSAGE[task]
    rows = [f"{number:02}" for number in range(2 * size)]
    make_waker(broker_url).wake(task, rows)
    eventually(lambda: len(messages(broker_url, name)) == 2)
    assert sorted(ids(broker_url, name)) == rows


def test_only_rows_of_one_group_share_a_message(make_waker: Make, broker_url: str) -> None:
    """What is suspected of breaking its process, say, can be kept apart from the rest."""
    waker = make_waker(broker_url)
    waker.wake(queue.HANDLE_EVENTS, ["a"], group="a")
    waker.wake(queue.HANDLE_EVENTS, ["b"], group="b")
    eventually(lambda: len(messages(broker_url)) == 2)


def test_many_threads_may_wake_at_once(make_waker: Make, broker_url: str) -> None:
    """No id is lost between threads, and none doubled."""
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


def test_an_absent_broker_is_nobodys_trouble_and_forgotten_when_it_comes(
    make_waker: Make, make_valkey: Callable[[], ValkeyServer], log: Log
) -> None:
    """Without a broker waking costs nothing and raises nothing; with one it works again."""
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


def test_a_frozen_broker_holds_nobody(
    make_waker: Make, make_valkey: Callable[[], ValkeyServer], log: Log
) -> None:
    """While the broker hangs waking returns at once; when it goes on, so do the messages."""
    server = make_valkey()
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


def test_a_broker_that_fails_is_asked_again_soon_then_less_often(
    make_waker: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pause doubles with each failure, up to a second, and is short after a success."""
    asked, paused, sleep = itertools.count(1), list[float](), time.sleep

    def publish(*_: object) -> None:
        if next(asked) != 7:
            raise OSError

    def pause(seconds: float) -> None:
        if threading.current_thread().name == "waker":
            paused.append(seconds)
        else:
            sleep(seconds)

    monkeypatch.setattr(queue, "publish", publish)
    monkeypatch.setattr(queue, "_EACH_ROW_SECONDS", 0.0)
    monkeypatch.setattr(time, "sleep", pause)
    waker = make_waker("redis://127.0.0.1:1/0")

    def has_paused() -> bool:
        waker.wake(queue.HANDLE_EVENTS, ["row"])
        return len(paused) >= 7

    eventually(has_paused)
    assert paused[:7] == [0.1, 0.2, 0.4, 0.8, 1.0, 1.0, 0.1]


def test_rows_that_never_cease_share_messages(
    make_waker: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first are told of as they come; those that follow wait a little for each other."""
    messages: list[list[str]] = []
    monkeypatch.setattr(queue, "publish", lambda _, __, rows: messages.append(list(rows)))
    monkeypatch.setattr(queue, "_EACH_ROW_SECONDS", 1.0)
    monkeypatch.setattr(queue, "_LONGEST_WAIT", 1.0)
    monkeypatch.setattr(queue, "_AT_ONCE_SECONDS", 4.0)
    at_once = 5  # the last of them spends what comes after
    waker = make_waker("redis://127.0.0.1:1/0")
    for number in range(at_once):
        waker.wake(queue.HANDLE_EVENTS, [f"{number}"])
        eventually(lambda: [f"{number}"] in messages)  # noqa: B023 - called before the next
    for number in range(10, 20):
        waker.wake(queue.HANDLE_EVENTS, [f"{number}"])
        time.sleep(0.01)
    eventually(lambda: len(messages) > at_once)
    assert messages[at_once] == [f"{number}" for number in range(10, 20)]


def test_the_backlog_has_an_end_and_drops_the_oldest(
    make_waker: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the broker takes nothing, memory stays bounded."""
    monkeypatch.setattr(queue, "DEEPEST_BACKLOG", 100)
    go_on, sending, sent = threading.Event(), threading.Event(), list[str]()

    def publish(_: Celery, __: str, rows: list[str]) -> None:
        sending.set()
        go_on.wait(10)
        sent.extend(rows)

    monkeypatch.setattr(queue, "publish", publish)
    waker = make_waker("redis://127.0.0.1:1/0")
    waker.wake(queue.HANDLE_EVENTS, ["first"])
    assert sending.wait(10)
    waker.wake(queue.HANDLE_EVENTS, (f"row{number}" for number in range(10_000)))
    go_on.set()
    waker.close(timeout=10)
    assert sent == ["first", *(f"row{number}" for number in range(9_900, 10_000))]


def test_closing_sends_what_waits(make_waker: Make, broker_url: str) -> None:
    """A call just before the end is not lost."""
    waker = make_waker(broker_url)
    waker.wake(queue.HANDLE_EVENTS, ["last"])
    waker.close()
    assert ids(broker_url) == ["last"]


def test_closing_does_not_wait_for_a_broker_that_hangs(
    make_waker: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The end of a process takes as long as it was given."""
    go_on = threading.Event()
    monkeypatch.setattr(queue, "publish", lambda *_: go_on.wait(10))
    waker = make_waker("redis://127.0.0.1:1/0")
    waker.wake(queue.HANDLE_EVENTS, ["last"])
    started = time.perf_counter()
    waker.close(timeout=0.1)
    assert time.perf_counter() - started < 2
    go_on.set()


def test_a_waker_that_never_woke_closes_too(make_waker: Make) -> None:
    """Without a call there is no thread, and nothing to wait for."""
    make_waker("redis://127.0.0.1:1/0").close()


def test_failures_never_show_what_was_to_be_sent(
    make_waker: Make, monkeypatch: pytest.MonkeyPatch, log: Log
) -> None:
    """The log names the kind of failure and how many rows it touched."""

    def publish(*_: object) -> None:
        raise ValueError("password hunter2")

    monkeypatch.setattr(queue, "publish", publish)
    make_waker("redis://127.0.0.1:1/0").wake(queue.HANDLE_EVENTS, ["a", "b"])
    (line,) = eventually(lambda: log.of("queue.wake_failed"))
    assert (line["rows"], line["error"]) == (2, "ValueError")
    assert "hunter2" not in log.text


def test_a_broker_that_answers_is_reachable(broker_url: str) -> None:
    """Asking many times leaves no connection behind."""
    app = queue.celery_app(broker_url)
    with redis.Redis.from_url(broker_url) as client:
        before = len(client.client_list())
        assert all(queue.reachable(app) for _ in range(5))
        eventually(lambda: len(client.client_list()) <= before)
    app.close()


@pytest.mark.parametrize("url", ["redis://127.0.0.1:{port}/0", "redis://u:p@ss:{port}x/0"])
def test_a_broker_that_is_not_there_is_not_reachable(url: str) -> None:
    """A closed port and an address that is none are answers, not exceptions."""
    app = queue.celery_app(url.format(port=free_port()))
    assert not queue.reachable(app)
    app.close()


def test_a_frozen_broker_is_not_reachable(make_valkey: Callable[[], ValkeyServer]) -> None:
    """The question ends in time even where no answer comes."""
    server = make_valkey()
    server.freeze()
    app = queue.celery_app(server.url)
    started = time.perf_counter()
    assert not queue.reachable(app)
    assert time.perf_counter() - started < 5
    server.thaw()
    app.close()


def test_a_queue_is_busy_while_enough_messages_wait(
    make_waker: Make, broker_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither an empty queue nor one with a few messages is, and each task has its own."""
    monkeypatch.setattr(queue, "ENOUGH_MESSAGES", 2)
    waker = make_waker(broker_url)
    assert not waker.is_busy(queue.HANDLE_EVENTS)
    waker.wake(queue.HANDLE_EVENTS, ["01A"])
    eventually(lambda: len(messages(broker_url)) == 1)
    assert not waker.is_busy(queue.HANDLE_EVENTS)
    waker.wake(queue.HANDLE_EVENTS, ["01B"])
    eventually(lambda: len(messages(broker_url)) == 2)
    assert waker.is_busy(queue.HANDLE_EVENTS)
    assert not waker.is_busy(queue.DELIVER)


def test_a_frozen_broker_is_not_busy(
    make_waker: Make, make_valkey: Callable[[], ValkeyServer], log: Log
) -> None:
    """What cannot be asked keeps nobody from trying, nor for long."""
    server = make_valkey()
    waker = make_waker(server.url)
    assert not waker.is_busy(queue.HANDLE_EVENTS)
    server.freeze()
    started = time.perf_counter()
    assert not waker.is_busy(queue.HANDLE_EVENTS)
    assert time.perf_counter() - started < 8
    assert log.of("queue.not_asked")
    server.thaw()
    assert not waker.is_busy(queue.HANDLE_EVENTS)


def test_nothing_but_json_is_read_or_written() -> None:
    """A message can carry no code, and no result is kept on the broker."""
    conf = queue.celery_app("redis://127.0.0.1:1/0").conf
    assert conf.accept_content == ["json"]
    assert conf.task_serializer == "json"
    assert conf.task_ignore_result
    assert set(queue.QUEUE_OF.values()) == {*queue.WORKER_QUEUES, *queue.SENDER_QUEUES}
