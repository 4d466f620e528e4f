"""The providers' clock and timers; a test can advance the clock by hours at once."""

from __future__ import annotations

import heapq
import itertools
import threading
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Self

from receiver import clock

Action = Callable[[], object]

# A clock that a test passes in can jump without a notification, so it is polled.
_LONGEST_WAIT = 0.5
_NOTHING = timedelta(0)


class Timeline:
    """A clock that can be advanced, with a schedule of actions.

    Actions run one at a time, in the order of their times, and may schedule others. They must be
    short, since each delays the next.

    Args:
        real: the underlying clock.
        ahead: seconds that this clock is ahead of it.
    """

    def __init__(self, real: Callable[[], datetime] = clock.now, *, ahead: float = 0.0) -> None:
        self._real = real
        self._shift = timedelta(seconds=ahead)
        self._due: list[tuple[datetime, int, Action]] = []
        self._order = itertools.count()
        self._changed = threading.Condition()
        self._running = threading.RLock()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="simulator-timeline", daemon=True)

    def now(self) -> datetime:
        """The current time, in UTC."""
        return self._real() + self._shift

    def after(self, seconds: float, action: Action) -> None:
        """Schedule an action; with 0 seconds it still runs after the caller's current step."""
        self.at(self.now() + timedelta(seconds=seconds), action)

    def at(self, moment: datetime, action: Action) -> None:
        """Schedule an action for a time."""
        with self._changed:
            heapq.heappush(self._due, (moment, next(self._order), action))
            self._changed.notify()

    def advance(self, seconds: float) -> None:
        """Advance the clock; every action due by then has run, at its own time, on return."""
        with self._running:
            target = self.now() + timedelta(seconds=seconds)
            while (due := self._next_due()) is not None and due <= target:
                self._shift += max(due - self.now(), _NOTHING)
                self._run_due()
            self._shift += max(target - self.now(), _NOTHING)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        while True:
            with self._changed:
                if self._closed:
                    return
                due = self._next_due()
                left = _LONGEST_WAIT if due is None else (due - self.now()).total_seconds()
                if left > 0:
                    self._changed.wait(min(left, _LONGEST_WAIT))
                    continue
            self._run_due()

    def _run_due(self) -> None:
        with self._running:
            while (action := self._pop_due()) is not None:
                action()

    def _pop_due(self) -> Action | None:
        with self._changed:
            if not self._due or self._due[0][0] > self.now():
                return None
            return heapq.heappop(self._due)[2]

    def _next_due(self) -> datetime | None:
        with self._changed:
            return self._due[0][0] if self._due else None
