"""SenderPool: one thread leads, a few send, and what has landed is recorded together."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.support.waiting import eventually
from worker.delivery import sender_pool
from worker.delivery.sender_pool import FIRST_ABREAST, Landed, Round, SenderPool, Turn
from worker.destinations.base import DeliveryError

MOST = 4


class Line:
    """Messages that wait for a destination, each a number, and what became of them."""

    def __init__(self, waiting: int = 0) -> None:
        self.waiting = list(range(waiting))
        self.rounds: list[Round] = []
        self.recorded: list[list[int]] = []
        self.gates: dict[int, threading.Event] = {}
        self.refused: set[int] = set()
        self.trouble: list[Exception] = []
        self.turns: list[Turn] = []
        self.flying = self.most = 0
        self._lock = threading.Lock()

    def send(self, message: int) -> DeliveryError | None:
        """Hold the message until its gate is open, if it has one."""
        with self._lock:
            self.flying += 1
            self.most = max(self.most, self.flying)
        gate = self.gates.get(message)
        assert gate is None or gate.wait(20)
        with self._lock:
            self.flying -= 1
        return DeliveryError("no") if message in self.refused else None

    def step(self, landed: Sequence[Landed[int]], following: Round) -> Sequence[int] | Turn:
        """Record, and take what waits."""
        if self.trouble:
            raise self.trouble.pop()
        self.rounds.append(following)
        if landed:
            self.recorded.append(sorted(each.message for each in landed))
        if not following.goes_on and not following.waited:
            return ()
        if self.turns:
            return self.turns.pop()
        taken = self.waiting[: following.places]
        del self.waiting[: following.places]
        return taken

    @property
    def done(self) -> list[int]:
        """What was recorded."""
        return sorted(each for together in self.recorded for each in together)


class Clock:
    """A monotonic clock that stands still."""

    now = 0.0

    def monotonic(self) -> float:
        """What time it is."""
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock by which crews measure."""
    made = Clock()
    monkeypatch.setattr(sender_pool, "time", made)
    return made


@pytest.fixture
def senders() -> Iterator[SenderPool]:
    """The crews of a process."""
    made = SenderPool()
    yield made
    made.close()


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    """A sender's threads."""
    with ThreadPoolExecutor(4) as pool:
        yield pool


def test_everything_that_waits_is_sent(senders: SenderPool) -> None:
    """A few at once, until nothing is left."""
    line = Line(20)
    senders.work("slack", MOST, line.send, line.step)

    assert line.done == list(range(20))
    assert line.most <= MOST


def test_what_has_landed_waits_as_long_as_a_record_takes(
    senders: SenderPool, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What lands meanwhile is recorded together with it."""
    monkeypatch.setattr(sender_pool, "_LONGEST_LINGER_SECONDS", 9)
    line = Line(2)
    line.gates[1] = threading.Event()

    def step(landed: Sequence[Landed[int]], following: Round) -> Sequence[int] | Turn:
        clock.now += 9
        return line.step(landed, following)

    threading.Timer(0.2, line.gates[1].set).start()
    senders.work("slack", MOST, line.send, step)
    assert line.recorded == [[0, 1]]


@pytest.mark.usefixtures("clock")
def test_where_a_record_takes_no_time_nothing_waits(
    senders: SenderPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a crash would have told again is as little as can be."""
    monkeypatch.setattr(sender_pool, "_LONGEST_LINGER_SECONDS", 9)
    line = Line(2)
    line.gates[1] = threading.Event()

    def step(landed: Sequence[Landed[int]], following: Round) -> Sequence[int] | Turn:
        taken = line.step(landed, following)
        if landed:
            line.gates[1].set()
        return taken

    threading.Timer(5, line.gates[1].set).start()
    senders.work("slack", MOST, line.send, step)
    assert line.recorded == [[0], [1]]


def test_a_slow_message_holds_up_nobody(senders: SenderPool, threads: ThreadPoolExecutor) -> None:
    """While it is on its way, others are sent, recorded, and those that come are taken."""
    line = Line(3)
    line.gates[0] = threading.Event()
    leading = threads.submit(senders.work, "slack", MOST, line.send, line.step)
    eventually(lambda: line.done == [1, 2])
    line.waiting.append(9)
    senders.work(
        "slack", MOST, line.send, line.step
    )  # whoever comes now tells the leader, and goes

    eventually(lambda: line.done == [1, 2, 9])
    line.gates[0].set()
    leading.result(20)
    assert line.done == [0, 1, 2, 9]


def test_each_destination_has_a_crew_of_its_own(
    senders: SenderPool, threads: ThreadPoolExecutor
) -> None:
    """One that hangs is no other's trouble."""
    slow, quick = Line(1), Line(1)
    slow.gates[0] = threading.Event()
    leading = threads.submit(senders.work, "slow", MOST, slow.send, slow.step)
    senders.work("quick", MOST, quick.send, quick.step)

    assert quick.done == [0]
    slow.gates[0].set()
    leading.result(20)


def test_more_are_sent_at_once_as_a_destination_takes_them(senders: SenderPool) -> None:
    """It begins with a few, and never has more than it may."""
    line = Line(60)
    senders.work("slack", 16, line.send, line.step)

    assert line.done == list(range(60))
    assert line.rounds[0].places == FIRST_ABREAST
    assert max(each.places for each in line.rounds) > FIRST_ABREAST
    assert line.most <= 16


def test_after_a_failure_one_message_finds_out(senders: SenderPool) -> None:
    """Then, as it takes messages again, they are sent side by side as before."""
    line = Line(9)
    line.refused = {0, 1, 2, 3}
    senders.work("slack", MOST, line.send, line.step)

    assert line.done == list(range(9))
    assert [each.places for each in line.rounds if each.places][:2] == [FIRST_ABREAST, 1]
    found_out = line.recorded.index([4])
    assert {number for record in line.recorded[:found_out] for number in record} == line.refused
    assert max(map(len, line.recorded[found_out + 1 :])) > 1


def test_what_was_sent_is_recorded_in_spite_of_trouble(
    senders: SenderPool, threads: ThreadPoolExecutor
) -> None:
    """The next messages cannot be claimed: those on their way are not forgotten for that."""
    line = Line(2)
    line.gates = {0: threading.Event(), 1: threading.Event()}
    leading = threads.submit(senders.work, "slack", MOST, line.send, line.step)
    eventually(lambda: line.flying == 2)
    line.trouble.append(ValueError("no connection"))
    line.gates[0].set()
    eventually(lambda: not line.trouble)
    line.gates[1].set()

    with pytest.raises(ValueError, match="no connection"):
        leading.result(20)
    assert line.done == [0, 1]
    senders.work("slack", MOST, line.send, line.step)  # somebody may lead again


@pytest.mark.parametrize("more", [[7], []])
def test_who_calls_as_the_leader_leaves_is_heard_once(
    senders: SenderPool, threads: ThreadPoolExecutor, more: list[int]
) -> None:
    """What came after the last look is sent as well, and then nobody looks any more."""
    line = Line()
    looks: list[int] = []

    def step(landed: Sequence[Landed[int]], following: Round) -> Sequence[int] | Turn:
        taken = line.step(landed, following)
        looks.append(len(looks))
        if len(looks) == 1:
            line.waiting += more
            threads.submit(senders.work, "slack", MOST, line.send, line.step).result(20)
        assert len(looks) < 10
        return taken

    senders.work("slack", MOST, line.send, step)
    assert line.done == more


def test_a_turn_is_waited_for(senders: SenderPool) -> None:
    """And whoever waited says so."""
    line = Line(1)
    line.turns.append(Turn(0.2))
    began = time.monotonic()
    senders.work("slack", MOST, line.send, line.step)

    assert line.done == [0]
    assert time.monotonic() - began >= 0.2
    assert [each.waited for each in line.rounds][:2] == [False, True]
