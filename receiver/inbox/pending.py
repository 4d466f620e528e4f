"""Requests that wait for their event to be stored, and their deadlines."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from heapq import heappop, heappush
from itertools import count

import structlog

from receiver.errors import StoreUnavailable
from receiver.inbox.store import InboxRow, IncomingEvent, StoreResult

_log = structlog.get_logger(__name__)

Outcome = StoreResult | StoreUnavailable


@dataclass(slots=True, eq=False)
class PendingWrite:
    """One request whose event is not stored yet.

    ``row`` is None until the event is prepared. Once the callback was called, all three are None:
    an answered request keeps no body in memory, whatever still refers to it.
    """

    incoming: IncomingEvent | None
    callback: Callable[[Outcome], None] | None = field(repr=False)
    row: InboxRow | None = None

    @property
    def answered(self) -> bool:
        """Whether the callback was called."""
        return self.callback is None

    def complete(self, outcome: Outcome) -> None:
        """Call the callback, unless it was called before; log an exception that it raises."""
        callback, self.callback = self.callback, None
        self.incoming = self.row = None
        if callback is None:  # its deadline has passed, or another batch has completed it
            return
        try:
            callback(outcome)
        except Exception as error:  # noqa: BLE001 - the rest of the batch must be completed too
            _log.error("group_commit.callback_failed", error=type(error).__name__, exc_info=error)


class Deadlines:
    """Refuses requests whose deadline has passed; one event-loop timer serves all of them.

    ``on_expired`` is called after some were refused.
    """

    def __init__(self, on_expired: Callable[[], None]) -> None:
        self._on_expired = on_expired
        self._heap: list[tuple[float, int, PendingWrite]] = []
        self._sequence = count()
        self._timer_at = math.inf
        self._timer: asyncio.TimerHandle | None = None

    def add(self, pending: PendingWrite, deadline: float) -> None:
        """Refuse ``pending`` at ``deadline`` of the monotonic clock, unless it is complete."""
        heappush(self._heap, (deadline, next(self._sequence), pending))
        self._set_timer()

    def discard_completed(self) -> None:
        """Drop completed requests from the top of the heap."""
        while self._heap and self._heap[0][2].answered:
            heappop(self._heap)

    def close(self) -> None:
        """Cancel the timer."""
        if self._timer is not None:
            self._timer.cancel()

    def _expire(self) -> None:
        now = time.monotonic()
        while self._heap and self._heap[0][0] <= now:
            _, _, late = heappop(self._heap)
            late.complete(StoreUnavailable("the event could not be stored in time"))
        self._timer_at = math.inf
        self._on_expired()
        self._set_timer()

    def _set_timer(self) -> None:
        if self._heap and self._heap[0][0] < self._timer_at:
            if self._timer is not None:
                self._timer.cancel()
            self._timer_at = self._heap[0][0]
            seconds = self._timer_at - time.monotonic()
            self._timer = asyncio.get_running_loop().call_later(seconds, self._expire)
