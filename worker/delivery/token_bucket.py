"""The pace of a destination: a token bucket, stored as one time.

``spent_until`` is when the messages sent so far would be done if they had gone out evenly. Once
it is as far ahead of now as ``burst`` messages take evenly, nothing more may be sent.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import datetime, timedelta


@dataclass(frozen=True, slots=True)
class TokenBucket:
    """``per_second`` messages on average, None for no limit; at most ``burst`` at once."""

    per_second: float | None
    burst: int

    def available(self, spent_until: datetime | None, now: datetime) -> int | None:
        """How many messages may be sent now; None for no limit."""
        if self.per_second is None:
            return None
        return (self._max_ahead - self._ahead(spent_until, now)) // self._interval

    def next_allowed_at(self, spent_until: datetime | None, now: datetime) -> datetime:
        """When the next message may be sent: ``now`` or later."""
        if self.per_second is None:
            return now
        wait = self._ahead(spent_until, now) + self._interval - self._max_ahead
        return now + max(wait, timedelta())

    def spend(self, spent_until: datetime | None, now: datetime) -> datetime | None:
        """The new ``spent_until`` after one more message."""
        if self.per_second is None:
            return None
        return now + self._ahead(spent_until, now) + self._interval

    @property
    def _interval(self) -> timedelta:
        return timedelta(microseconds=math.ceil(1_000_000 / (self.per_second or 1)))

    @property
    def _max_ahead(self) -> timedelta:
        return self._interval * self.burst

    def _ahead(self, spent_until: datetime | None, now: datetime) -> timedelta:
        # More than a full burst was written under another clock or pace, and says nothing.
        ahead = (spent_until or now) - now
        return ahead if timedelta() < ahead <= self._max_ahead else timedelta()
