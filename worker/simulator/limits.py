"""Rate limits of an API key: calls in any minute, counted for each class of calls."""

from __future__ import annotations

import math
from collections import defaultdict, deque
from collections.abc import Mapping
from datetime import datetime, timedelta

from worker.simulator.knobs import Knobs

_MINUTE = timedelta(minutes=1)


class Limits:
    """A sliding one-minute window for each class of calls; only the server's thread may use it."""

    def __init__(self, limits: Mapping[str, int], knobs: Knobs) -> None:
        self._limits = limits
        self._knobs = knobs
        self._taken: dict[str, deque[datetime]] = defaultdict(deque)

    def take(self, budget: str | None, now: datetime) -> int | None:
        """Count a call of the class ``budget``; calls of no class are free.

        Returns:
            None if the call is within the limit, else the whole seconds until it would be.
        """
        if budget is None:
            return None
        taken = self._taken[budget]
        while taken and taken[0] <= now - _MINUTE:
            taken.popleft()
        if len(taken) >= self._limits[budget] * self._knobs.limit_factor:
            return math.ceil((taken[0] + _MINUTE - now).total_seconds())
        taken.append(now)
        return None
