"""Threads of their own for the calls to each provider, so that one that hangs delays no other.

A task only adds the rows that woke, and ends: it never waits for the network. What does not fit is
dropped, as a lost message is; the sweep wakes those rows again.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice

from receiver.queue import MAX_BACKLOG


class Lanes:
    """One lane for each key, with up to ``threads`` threads, which start when they are needed.

    ``work`` gets at most ``batch`` rows of one lane at a time; it must not raise.
    """

    def __init__(
        self, name: str, work: Callable[[Sequence[str]], None], *, threads: int, batch: int
    ) -> None:
        self._name = name
        self._work = work
        self._threads = threads
        self._batch = batch
        self._lock = threading.Lock()
        self._lanes: dict[Hashable, _Lane] = {}
        self._closed = False

    def add(self, key: Hashable, rows: Iterable[str]) -> None:
        """Work on these rows in the lane ``key``, soon; rows that wait there already wait once."""
        with self._lock:
            if self._closed:
                return
            lane = self._lanes.setdefault(key, _Lane(self._name, self._threads))
            lane.waiting.update(dict.fromkeys(rows))
            while len(lane.waiting) > MAX_BACKLOG:
                lane.waiting.popitem()
            wanted = -(-len(lane.waiting) // self._batch)
            starting = min(wanted, self._threads - lane.busy)
            for _ in range(starting):
                lane.busy += 1
                lane.pool.submit(self._run, lane)

    def close(self) -> None:
        """Start no more work; does not wait for what is in progress."""
        with self._lock:
            self._closed = True
            for lane in self._lanes.values():
                lane.waiting.clear()
                lane.pool.shutdown(wait=False)

    def _run(self, lane: _Lane) -> None:
        while rows := self._next(lane):
            self._work(rows)

    def _next(self, lane: _Lane) -> Sequence[str]:
        """The next rows; none ends the thread's work."""
        with self._lock:
            rows = list(islice(lane.waiting, self._batch))
            for row in rows:
                del lane.waiting[row]
            if not rows:
                lane.busy -= 1
            return rows


class _Lane:
    """The rows that wait, oldest first, and the threads; ``busy`` is how many of them work."""

    def __init__(self, name: str, threads: int) -> None:
        self.waiting: dict[str, None] = {}
        self.busy = 0
        self.pool = ThreadPoolExecutor(threads, thread_name_prefix=name)
