"""SenderPool: one dispatcher, a few sender threads, finished messages recorded together."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.support.waiting import eventually
from worker.delivery import sender_pool
from worker.delivery.sender_pool import (
    INITIAL_CONCURRENCY,
    ClaimRequest,
    FinishedSend,
    SenderPool,
    Throttled,
)
from worker.destinations.base import DeliveryError

MAX_CONCURRENCY = 4


class FakeDestination:
    """A destination with waiting messages, each a number; it records what happens to them."""

    def __init__(self, waiting: int = 0) -> None:
        self.waiting = list(range(waiting))
        self.requests: list[ClaimRequest] = []
        self.recorded: list[list[int]] = []
        self.gates: dict[int, threading.Event] = {}
        self.refused: set[int] = set()
        self.errors: list[Exception] = []
        self.throttles: list[Throttled] = []
        self.in_flight = self.max_in_flight = 0
        self._lock = threading.Lock()

    def send(self, message: int) -> DeliveryError | None:
        """Block until the message's gate is open, if it has one."""
        with self._lock:
            self.in_flight += 1
            self.max_in_flight = max(self.max_in_flight, self.in_flight)
        gate = self.gates.get(message)
        assert gate is None or gate.wait(20)
        with self._lock:
            self.in_flight -= 1
        return DeliveryError("no") if message in self.refused else None

    def step(
        self, finished: Sequence[FinishedSend[int]], request: ClaimRequest
    ) -> Sequence[int] | Throttled:
        """Record finished messages, and claim waiting ones."""
        if self.errors:
            raise self.errors.pop()
        self.requests.append(request)
        if finished:
            self.recorded.append(sorted(each.message for each in finished))
        if not request.has_time:
            return ()
        if self.throttles:
            return self.throttles.pop()
        claimed = self.waiting[: request.free_slots]
        del self.waiting[: request.free_slots]
        return claimed

    @property
    def done(self) -> list[int]:
        """The recorded messages."""
        return sorted(each for together in self.recorded for each in together)


class Clock:
    """A monotonic clock that stands still."""

    now = 0.0

    def monotonic(self) -> float:
        """The current time."""
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock of the sender pool."""
    clock = Clock()
    monkeypatch.setattr(sender_pool, "time", clock)
    return clock


@pytest.fixture
def senders() -> Iterator[SenderPool]:
    """The sender pool of a process."""
    pool = SenderPool()
    yield pool
    pool.close()


def dispatch(senders: SenderPool, *args: Any) -> None:
    """Dispatch, and wait for the end."""
    senders.dispatch(*args).result()


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    """The task threads of a sender process."""
    with ThreadPoolExecutor(4) as pool:
        yield pool


def test_all_waiting_messages_are_sent(senders: SenderPool) -> None:
    """A few concurrently, until none is left."""
    destination = FakeDestination(20)
    dispatch(senders, "slack", MAX_CONCURRENCY, destination.send, destination.step)

    assert destination.done == list(range(20))
    assert destination.max_in_flight <= MAX_CONCURRENCY


def test_a_finished_message_waits_as_long_as_a_record_takes(
    senders: SenderPool, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Messages that finish meanwhile are recorded together with it."""
    monkeypatch.setattr(sender_pool, "_MAX_LINGER_SECONDS", 9)
    destination = FakeDestination(2)
    destination.gates[1] = threading.Event()

    def step(
        finished: Sequence[FinishedSend[int]], request: ClaimRequest
    ) -> Sequence[int] | Throttled:
        clock.now += 9
        return destination.step(finished, request)

    threading.Timer(0.2, destination.gates[1].set).start()
    dispatch(senders, "slack", MAX_CONCURRENCY, destination.send, step)
    assert destination.recorded == [[0, 1]]


@pytest.mark.usefixtures("clock")
def test_nothing_waits_if_a_record_takes_no_time(
    senders: SenderPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So a crash repeats as few messages as possible."""
    monkeypatch.setattr(sender_pool, "_MAX_LINGER_SECONDS", 9)
    destination = FakeDestination(2)
    destination.gates[1] = threading.Event()

    def step(
        finished: Sequence[FinishedSend[int]], request: ClaimRequest
    ) -> Sequence[int] | Throttled:
        claimed = destination.step(finished, request)
        if finished:
            destination.gates[1].set()
        return claimed

    threading.Timer(5, destination.gates[1].set).start()
    dispatch(senders, "slack", MAX_CONCURRENCY, destination.send, step)
    assert destination.recorded == [[0], [1]]


def test_a_slow_message_delays_no_other(senders: SenderPool, threads: ThreadPoolExecutor) -> None:
    """While it is in flight, others are claimed, sent and recorded."""
    destination = FakeDestination(3)
    destination.gates[0] = threading.Event()
    dispatcher = threads.submit(
        dispatch, senders, "slack", MAX_CONCURRENCY, destination.send, destination.step
    )
    eventually(lambda: destination.done == [1, 2])
    destination.waiting.append(9)
    # This call only wakes the dispatcher.
    dispatch(senders, "slack", MAX_CONCURRENCY, destination.send, destination.step)

    eventually(lambda: destination.done == [1, 2, 9])
    destination.gates[0].set()
    dispatcher.result(20)
    assert destination.done == [0, 1, 2, 9]


def test_each_destination_has_its_own_senders(
    senders: SenderPool, threads: ThreadPoolExecutor
) -> None:
    """A destination that hangs does not delay another."""
    slow, fast = FakeDestination(1), FakeDestination(1)
    slow.gates[0] = threading.Event()
    dispatcher = threads.submit(dispatch, senders, "slow", MAX_CONCURRENCY, slow.send, slow.step)
    dispatch(senders, "quick", MAX_CONCURRENCY, fast.send, fast.step)

    assert fast.done == [0]
    slow.gates[0].set()
    dispatcher.result(20)


def test_concurrency_grows_with_successes(senders: SenderPool) -> None:
    """It begins at the initial concurrency and never exceeds the limit."""
    destination = FakeDestination(60)
    dispatch(senders, "slack", 16, destination.send, destination.step)

    assert destination.done == list(range(60))
    assert destination.requests[0].free_slots == INITIAL_CONCURRENCY
    assert max(each.free_slots for each in destination.requests) > INITIAL_CONCURRENCY
    assert destination.max_in_flight <= 16


def test_after_a_failure_one_message_is_sent_at_a_time(senders: SenderPool) -> None:
    """Once one succeeds, messages are sent concurrently again."""
    destination = FakeDestination(9)
    destination.refused = {0, 1, 2, 3}
    dispatch(senders, "slack", MAX_CONCURRENCY, destination.send, destination.step)

    assert destination.done == list(range(9))
    assert [each.free_slots for each in destination.requests if each.free_slots][:2] == [
        INITIAL_CONCURRENCY,
        1,
    ]
    found_out = destination.recorded.index([4])
    assert {
        number for record in destination.recorded[:found_out] for number in record
    } == destination.refused
    assert max(map(len, destination.recorded[found_out + 1 :])) > 1


def test_messages_in_flight_are_recorded_after_an_error(
    senders: SenderPool, threads: ThreadPoolExecutor
) -> None:
    """When claiming fails, messages in flight are still recorded."""
    destination = FakeDestination(2)
    destination.gates = {0: threading.Event(), 1: threading.Event()}
    dispatcher = threads.submit(
        dispatch, senders, "slack", MAX_CONCURRENCY, destination.send, destination.step
    )
    eventually(lambda: destination.in_flight == 2)
    destination.errors.append(ValueError("no connection"))
    destination.gates[0].set()
    eventually(lambda: not destination.errors)
    destination.gates[1].set()

    with pytest.raises(ValueError, match="no connection"):
        dispatcher.result(20)
    assert destination.done == [0, 1]
    dispatch(
        senders, "slack", MAX_CONCURRENCY, destination.send, destination.step
    )  # a new dispatcher can start


@pytest.mark.parametrize("more", [[7], []])
def test_a_wake_up_call_during_the_last_claim_is_not_lost(
    senders: SenderPool, threads: ThreadPoolExecutor, more: list[int]
) -> None:
    """Messages that came after the last claim are sent, and then the dispatcher ends."""
    destination = FakeDestination()
    looks: list[int] = []

    def step(
        finished: Sequence[FinishedSend[int]], request: ClaimRequest
    ) -> Sequence[int] | Throttled:
        claimed = destination.step(finished, request)
        looks.append(len(looks))
        if len(looks) == 1:
            destination.waiting += more
            threads.submit(
                dispatch, senders, "slack", MAX_CONCURRENCY, destination.send, destination.step
            ).result(20)
        assert len(looks) < 10
        return claimed

    dispatch(senders, "slack", MAX_CONCURRENCY, destination.send, step)
    assert destination.done == more


def test_a_throttled_dispatcher_waits(senders: SenderPool, monkeypatch: pytest.MonkeyPatch) -> None:
    """It sends what it waited for, even if its time is over meanwhile."""
    monkeypatch.setattr(sender_pool, "MAX_DISPATCH_SECONDS", 0.1)
    destination = FakeDestination(1)
    destination.throttles.append(Throttled(0.2))
    began = time.monotonic()
    dispatch(senders, "slack", MAX_CONCURRENCY, destination.send, destination.step)

    assert destination.done == [0]
    assert time.monotonic() - began >= 0.2


def test_a_dispatcher_holds_no_thread_of_its_caller(senders: SenderPool) -> None:
    """Any number of destinations that hang delays neither the caller nor another destination."""
    slow = FakeDestination(1)
    slow.gates[0] = threading.Event()
    running = [
        senders.dispatch(f"slow-{n}", MAX_CONCURRENCY, slow.send, slow.step) for n in range(40)
    ]
    quick = FakeDestination(3)
    dispatch(senders, "quick", MAX_CONCURRENCY, quick.send, quick.step)
    assert quick.done == [0, 1, 2]
    assert not all(each.done() for each in running)
    slow.gates[0].set()
    for each in running:
        each.result(20)
    assert slow.done == [0]


def test_the_close_waits_for_messages_in_flight(senders: SenderPool) -> None:
    """They are recorded, and nothing new is claimed; but it waits no longer than it is told."""
    destination = FakeDestination(20)
    destination.gates = {number: threading.Event() for number in range(20)}
    running = senders.dispatch("slack", MAX_CONCURRENCY, destination.send, destination.step)
    eventually(lambda: destination.in_flight == MAX_CONCURRENCY)
    senders.close(0.01)
    assert not running.done()
    for gate in destination.gates.values():
        gate.set()
    senders.close(20)
    assert running.done()
    assert len(destination.done) == MAX_CONCURRENCY
    dispatch(senders, "slack", MAX_CONCURRENCY, destination.send, destination.step)
    assert len(destination.done) == MAX_CONCURRENCY
