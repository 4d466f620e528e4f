"""The providers' time: what is due happens by itself, and a test may let hours pass at once."""

from __future__ import annotations

import heapq
import itertools
import threading
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Self

from receiver import clock

Action = Callable[[], object]

# A clock that was handed in can jump without a word, so it is looked at now and then.
_LONGEST_WAIT = 0.5
_NOTHING = timedelta(0)


class Timeline:
    """A clock that can be moved on, and what happens when.

    Actions run one at a time, in the order of their times, and may plan others; they must be
    short, since they hold up everything that is due.

    Args:
        real: the clock underneath.
        ahead: seconds that this time is ahead of it.
    """

    def __init__(self, real: Callable[[], datetime] = clock.now, *, ahead: float = 0.0) -> None:
        self._real = real
        self._shift = timedelta(seconds=ahead)
        self._due: list[tuple[datetime, int, Action]] = []
        self._order = itertools.count()
        self._changed = threading.Condition()
        self._acting = threading.RLock()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="upstream-timeline", daemon=True)

    def now(self) -> datetime:
        """The time, in UTC."""
        return self._real() + self._shift

    def after(self, seconds: float, action: Action) -> None:
        """Let something happen later; at once is still after the caller's own step."""
        self.at(self.now() + timedelta(seconds=seconds), action)

    def at(self, moment: datetime, action: Action) -> None:
        """Let something happen at a time."""
        with self._changed:
            heapq.heappush(self._due, (moment, next(self._order), action))
            self._changed.notify()

    def advance(self, seconds: float) -> None:
        """Let time pass; what becomes due on the way has happened, at its time, on return."""
        with self._acting:
            target = self.now() + timedelta(seconds=seconds)
            while (due := self._first()) is not None and due <= target:
                self._shift += max(due - self.now(), _NOTHING)
                self._act()
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
                due = self._first()
                left = _LONGEST_WAIT if due is None else (due - self.now()).total_seconds()
                if left > 0:
                    self._changed.wait(min(left, _LONGEST_WAIT))
                    continue
            self._act()

    def _act(self) -> None:
        """Do everything that is due now."""
        with self._acting:
            while (action := self._take()) is not None:
                action()

    def _take(self) -> Action | None:
        with self._changed:
            if not self._due or self._due[0][0] > self.now():
                return None
            return heapq.heappop(self._due)[2]

    def _first(self) -> datetime | None:
        with self._changed:
            return self._due[0][0] if self._due else None
