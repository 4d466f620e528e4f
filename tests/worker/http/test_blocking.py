"""Name resolution: names that do not answer."""

from __future__ import annotations

import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.support.waiting import eventually
from worker.http.blocking import FAILURE_SECONDS, SILENT_SECONDS, Resolver

SILENT = ("silent1.example", "silent2.example")


class Names:
    """A name service that is silent for some names until it is told to answer."""

    def __init__(self) -> None:
        self.asked: Counter[str] = Counter()
        self.answering = threading.Event()
        self.failure: OSError | None = None

    def look_up(self, host: str, port: int, **_: object) -> list[object]:
        """In place of ``socket.getaddrinfo``."""
        self.asked[host] += 1
        if host in SILENT:
            assert self.answering.wait(30)
            if self.failure is not None:
                raise self.failure
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]


class Clock:
    """A clock that a test moves."""

    now = 100.0

    def __call__(self) -> float:
        """The time."""
        return self.now


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Iterator[Names]:
    """The name service."""
    names = Names()
    monkeypatch.setattr(socket, "getaddrinfo", names.look_up)
    yield names
    names.answering.set()
    eventually(lambda: not [each for each in threading.enumerate() if each.name == "resolve"])


def look_ups() -> int:
    """How many look-ups are in progress."""
    return sum(each.name == "resolve" for each in threading.enumerate())


def test_a_silent_name_has_one_look_up(names: Names) -> None:
    """Whoever asks shares it, so two silent names hold two threads; others are resolved at once."""
    resolver = Resolver()

    def ask(host: str) -> bool:
        with pytest.raises(TimeoutError):
            resolver.resolve(host, 443, 0.05)
        return True

    with ThreadPoolExecutor(20) as pool:
        assert all(pool.map(ask, SILENT * 50))
    assert look_ups() == len(SILENT)
    assert names.asked == dict.fromkeys(SILENT, 1)
    began = time.monotonic()
    assert [resolver.resolve(f"good{n}.example", 443, 5)[0][4] for n in range(20)]
    assert time.monotonic() - began < 1
    names.answering.set()
    eventually(lambda: look_ups() == 0)
    assert resolver.resolve(SILENT[0], 443, 5)


def test_nobody_waits_again_for_a_silent_name(names: Names) -> None:
    """For a short while; the look-up that still runs is shared after that."""
    clock = Clock()
    resolver = Resolver(clock)
    with pytest.raises(TimeoutError):  # too little time to tell
        resolver.resolve(SILENT[0], 443, 0.01)
    clock.now += SILENT_SECONDS
    with pytest.raises(TimeoutError):
        resolver.resolve(SILENT[0], 443, 0.01)
    began = time.monotonic()
    with pytest.raises(TimeoutError):
        resolver.resolve(SILENT[0], 443, 20)
    assert time.monotonic() - began < 5
    assert names.asked[SILENT[0]] == 1

    clock.now += FAILURE_SECONDS
    names.answering.set()
    assert resolver.resolve(SILENT[0], 443, 20)


def test_a_failure_that_took_long_is_remembered(names: Names) -> None:
    """As the resolver's own time-out is; one that comes at once is asked about again."""
    clock = Clock()
    resolver = Resolver(clock)
    names.failure = socket.gaierror(socket.EAI_AGAIN, "try again")
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(resolver.resolve, SILENT[0], 443, 20)
        eventually(lambda: names.asked[SILENT[0]] == 1)
        clock.now += SILENT_SECONDS
        names.answering.set()
        assert isinstance(waiting.exception(), socket.gaierror)
    for _ in range(2):
        with pytest.raises(socket.gaierror, match="try again"):
            resolver.resolve(SILENT[0], 443, 20)
    assert names.asked[SILENT[0]] == 1
    clock.now += FAILURE_SECONDS
    for _ in range(2):
        with pytest.raises(socket.gaierror):
            resolver.resolve(SILENT[0], 443, 20)
    assert names.asked[SILENT[0]] == 3
