"""How fast a destination is told things: a token bucket, kept as one moment.

The moment (``spent_until``) is when everything that was sent would have been sent, had it gone
out evenly; so far ahead of now as ``burst`` messages take evenly, nothing more may be sent.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import datetime, timedelta


@dataclass(frozen=True, slots=True)
class TokenBucket:
    """``per_second`` messages in the long run, None for no limit; ``burst`` at once."""

    per_second: float | None
    burst: int

    def room(self, spent_until: datetime | None, now: datetime) -> int | None:
        """How many messages may be sent now; None for any number."""
        if self.per_second is None:
            return None
        return (self._longest_ahead - self._ahead(spent_until, now)) // self._each

    def next_turn(self, spent_until: datetime | None, now: datetime) -> datetime:
        """When a message may be sent: ``now``, or later."""
        if self.per_second is None:
            return now
        until_room = self._ahead(spent_until, now) + self._each - self._longest_ahead
        return now + max(until_room, timedelta())

    def spend(self, spent_until: datetime | None, now: datetime) -> datetime | None:
        """The moment once one more message is sent."""
        if self.per_second is None:
            return None
        return now + self._ahead(spent_until, now) + self._each

    @property
    def _each(self) -> timedelta:
        return timedelta(microseconds=math.ceil(1_000_000 / (self.per_second or 1)))

    @property
    def _longest_ahead(self) -> timedelta:
        return self._each * self.burst

    def _ahead(self, spent_until: datetime | None, now: datetime) -> timedelta:
        # No further than a full burst: what is beyond was written under another clock or pace.
        ahead = (spent_until or now) - now
        return min(max(ahead, timedelta()), self._longest_ahead)
