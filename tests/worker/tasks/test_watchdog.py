"""The watchdog: a silent worker ends, and only a silent one."""

from __future__ import annotations

import pytest

from worker.tasks.watchdog import LONGEST_SILENCE_SECONDS, SILENCE_SECONDS, Watchdog


class Worker:
    """A worker's main process, as far as a watchdog sees it, under a clock of the test's own."""

    def __init__(self) -> None:
        self.time = 1000.0
        self.ticks = 0
        self.ends = 0
        self.others = False
        self.working = False
        self.broker_away = False
        self.watchdog = Watchdog(
            self._tick, lambda: self.others, self._end, lambda: self.working, lambda: self.time
        )

    def _tick(self) -> None:
        if self.broker_away:
            raise ConnectionError
        self.ticks += 1

    def _end(self) -> None:
        self.ends += 1

    def live(self, seconds: float, *, hearing: bool = False) -> None:
        """Let time pass, with a look every other second."""
        for _ in range(int(seconds / 2)):
            self.time += 2
            if hearing:
                self.watchdog.heard()
            self.watchdog.look()


@pytest.fixture
def worker() -> Worker:
    """A worker that has just started."""
    return Worker()


def test_a_worker_that_hears_messages_lives(worker: Worker) -> None:
    """No tick of its own is needed while the clock's come."""
    worker.live(1_000, hearing=True)
    assert (worker.ticks, worker.ends) == (0, 0)


def test_a_silent_worker_asks_and_then_ends(worker: Worker) -> None:
    """Nobody took its own tick either: it is over within half a minute."""
    worker.live(SILENCE_SECONDS + 2)
    assert (worker.ticks, worker.ends) == (1, 0)
    worker.live(SILENCE_SECONDS + 2)
    assert worker.ends == 1


def test_a_stopped_clock_is_no_silence(worker: Worker) -> None:
    """Where nobody sends ticks, the worker's own comes back to it."""
    worker.live(SILENCE_SECONDS + 2)
    worker.watchdog.heard()
    worker.live(SILENCE_SECONDS - 2)
    assert (worker.ticks, worker.ends) == (1, 0)


def test_an_absent_broker_is_no_silence(worker: Worker) -> None:
    """What cannot be sent cannot be taken: the worker waits for the broker."""
    worker.broker_away = True
    worker.live(LONGEST_SILENCE_SECONDS * 2)
    assert worker.ends == 0


def test_others_may_take_every_tick_for_a_while(worker: Worker) -> None:
    """Beside livelier ones a worker ends only after a silence that chance does not explain."""
    worker.others = True
    worker.live(LONGEST_SILENCE_SECONDS - 30)
    assert worker.ends == 0
    worker.live(60)
    assert worker.ends > 0


def test_a_busy_worker_is_left_alone(worker: Worker) -> None:
    """With its hands full it takes no message, and that is right."""
    worker.working = True
    worker.live(LONGEST_SILENCE_SECONDS - 30)
    assert worker.ends == 0
