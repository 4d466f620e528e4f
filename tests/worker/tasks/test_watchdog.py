"""The watchdog ends a worker that receives no messages, and no other."""

from __future__ import annotations

import pytest

from worker.tasks.watchdog import MAX_SILENCE_SECONDS, SILENCE_SECONDS, Watchdog


class Worker:
    """What a watchdog sees of a worker's main process, with a fake clock."""

    def __init__(self) -> None:
        self.time = 1000.0
        self.probes = 0
        self.ends = 0
        self.others = False
        self.working = False
        self.broker_away = False
        self.watchdog = Watchdog(
            self._send_probe,
            lambda: self.others,
            self._end,
            lambda: self.working,
            lambda: self.time,
        )

    def _send_probe(self) -> None:
        if self.broker_away:
            raise ConnectionError
        self.probes += 1

    def _end(self) -> None:
        self.ends += 1

    def run(self, seconds: float, *, receiving: bool = False) -> None:
        """Let time pass, with a check every two seconds."""
        for _ in range(int(seconds / 2)):
            self.time += 2
            if receiving:
                self.watchdog.message_received()
            self.watchdog.check()


@pytest.fixture
def worker() -> Worker:
    """A worker that has just started."""
    return Worker()


def test_a_worker_that_receives_messages_keeps_running(worker: Worker) -> None:
    """It publishes no probes."""
    worker.run(1_000, receiving=True)
    assert (worker.probes, worker.ends) == (0, 0)


def test_a_silent_worker_publishes_a_probe_and_then_ends(worker: Worker) -> None:
    """No worker received the probe either: it ends within half a minute."""
    worker.run(SILENCE_SECONDS + 2)
    assert (worker.probes, worker.ends) == (1, 0)
    worker.run(SILENCE_SECONDS + 2)
    assert worker.ends == 1


def test_a_worker_keeps_running_without_beat(worker: Worker) -> None:
    """It receives its own probes."""
    worker.run(SILENCE_SECONDS + 2)
    worker.watchdog.message_received()
    worker.run(SILENCE_SECONDS - 2)
    assert (worker.probes, worker.ends) == (1, 0)


def test_a_worker_keeps_running_without_a_broker(worker: Worker) -> None:
    """A probe that cannot be published proves nothing."""
    worker.broker_away = True
    worker.run(MAX_SILENCE_SECONDS * 2)
    assert worker.ends == 0


def test_other_workers_may_receive_every_probe_for_a_while(worker: Worker) -> None:
    """While others are alive, a worker ends only after a silence too long to be chance."""
    worker.others = True
    worker.run(MAX_SILENCE_SECONDS - 30)
    assert worker.ends == 0
    worker.run(60)
    assert worker.ends > 0


def test_a_busy_worker_keeps_running(worker: Worker) -> None:
    """Its prefetch limit is reached, so it takes no message."""
    worker.working = True
    worker.run(MAX_SILENCE_SECONDS - 30)
    assert worker.ends == 0
