"""Requests that wait for their event to be stored, and what they are told at the latest."""

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
    """One request, and its event once that is ready to be stored; ``tell`` is None once told."""

    incoming: IncomingEvent
    tell: Callable[[Outcome], None] | None = field(repr=False)
    entry: InboxRow | None = None

    def end(self, outcome: Outcome) -> None:
        """Tell it, if nobody has, whatever becomes of that."""
        tell, self.tell = self.tell, None
        if tell is None:  # it was not waited for any longer, or was told from elsewhere
            return
        try:
            tell(outcome)
        except Exception as error:  # noqa: BLE001 - the others of its batch are to be told as well
            _log.error("group_commit.answer_broke", error=type(error).__name__, exc_info=error)


class Deadlines:
    """Tells those whose time is over, from the event loop: one alarm for many of them."""

    def __init__(self) -> None:
        self._untold: list[tuple[float, int, PendingWrite]] = []  # a heap
        self._numbers = count()
        self._alarm_at = math.inf
        self._alarm: asyncio.TimerHandle | None = None

    def add(self, waiting: PendingWrite, deadline: float) -> None:
        """Have ``waiting`` told at ``deadline`` of the monotonic clock, if nobody has by then."""
        heappush(self._untold, (deadline, next(self._numbers), waiting))
        self._set_alarm()

    def drop_told(self) -> None:
        """Forget those who have been told, as far as they stand in front."""
        while self._untold and self._untold[0][2].tell is None:
            heappop(self._untold)

    def close(self) -> None:
        """Tell nobody any more."""
        if self._alarm is not None:
            self._alarm.cancel()

    def _ring(self) -> None:
        now = time.monotonic()
        while self._untold and self._untold[0][0] <= now:
            _, _, late = heappop(self._untold)
            late.end(StoreUnavailable("the event could not be stored in time"))
        self._alarm_at = math.inf
        self._set_alarm()

    def _set_alarm(self) -> None:
        if self._untold and self._untold[0][0] < self._alarm_at:
            if self._alarm is not None:
                self._alarm.cancel()
            self._alarm_at = self._untold[0][0]
            seconds = self._alarm_at - time.monotonic()
            self._alarm = asyncio.get_running_loop().call_later(seconds, self._ring)
