"""Lanes: rows of one key wait for rows of that key only."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence

import pytest

from receiver.queue import MAX_BACKLOG
from tests.support.waiting import eventually
from worker.tasks.lanes import Lanes

BATCH = 4


class Work:
    """What the lanes did; rows that begin with ``slow`` take until :attr:`over`."""

    def __init__(self) -> None:
        self.over = threading.Event()
        self.done: list[str] = []
        self.batches: list[int] = []
        self.threads: set[str] = set()

    def __call__(self, rows: Sequence[str]) -> None:
        """Work on rows."""
        self.threads.add(threading.current_thread().name)
        self.batches.append(len(rows))
        if rows[0].startswith("slow"):
            assert self.over.wait(20)
        self.done += rows


@pytest.fixture
def work() -> Iterator[Work]:
    """The work, which ends with the test."""
    work = Work()
    yield work
    work.over.set()


@pytest.fixture
def lanes(work: Work) -> Iterator[Lanes]:
    """Lanes with two threads each."""
    lanes = Lanes("test", work, threads=2, batch=BATCH)
    yield lanes
    work.over.set()
    lanes.close()


def test_a_slow_lane_delays_no_other(lanes: Lanes, work: Work) -> None:
    """It has as many threads as it may; what waits there is worked on later, each row once."""
    slow = [f"slow{number}" for number in range(20)]
    for _ in range(2):
        lanes.add("one", slow)
    lanes.add("other", ["quick"])
    eventually(lambda: work.done == ["quick"])
    eventually(lambda: len(work.batches) == 3)
    # Those in hand are not known to wait; a claim finds them leased.
    work.over.set()
    eventually(lambda: set(work.done) == {"quick", *slow})
    assert max(work.batches) == BATCH
    assert len(work.threads) <= 3


def test_a_lane_is_never_longer_than_a_backlog(lanes: Lanes, work: Work) -> None:
    """The newest rows are dropped: the sweep wakes them again."""
    for row in ("slow1", "slow2"):
        lanes.add("one", [row])
        eventually(lambda: work.batches == [1] * int(row[-1]))  # noqa: B023 - called in this round
    lanes.add("one", (f"row{number}" for number in range(MAX_BACKLOG + 5)))
    work.over.set()
    eventually(lambda: len(work.done) >= MAX_BACKLOG + 2, within=30)
    assert len(work.done) == MAX_BACKLOG + 2


def test_nothing_starts_after_the_close(lanes: Lanes, work: Work) -> None:
    """Neither what waits nor what is added."""
    lanes.add("one", [f"slow{number}" for number in range(20)])
    eventually(lambda: len(work.batches) == 2)
    lanes.close()
    lanes.add("one", ["quick"])
    work.over.set()
    eventually(lambda: len(work.done) == 2 * BATCH)
    assert len(work.batches) == 2
