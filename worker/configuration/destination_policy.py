"""The delivery policy of one destination, independent of its kind."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta
from typing import Final, Literal
from zoneinfo import ZoneInfo

Reveal = Literal["full", "masked", "none"]
OnUnknown = Literal["repeat", "hold"]
# A coalescing destination puts waiting rows into one message, so few messages are enough. Where
# each row needs its own message, this limit also limits messages per second.
MAX_IN_FLIGHT: Final = 4
MAX_IN_FLIGHT_SINGLE: Final = 16


@dataclass(frozen=True, slots=True)
class QuietHours:
    """A daily interval in local time during which notifications wait.

    ``start`` is inclusive and ``end`` exclusive. If ``end`` is before ``start``, the interval
    spans midnight.
    """

    start: time
    end: time
    zone: ZoneInfo

    def until(self, now: datetime) -> datetime | None:
        """The end, in UTC, of the quiet hours that contain ``now`` (aware); None outside them."""
        local = now.astimezone(self.zone)
        clock = local.time()
        spans_midnight = self.end <= self.start
        quiet = (
            clock >= self.start or clock < self.end
            if spans_midnight
            else self.start <= clock < self.end
        )
        if not quiet:
            return None
        tomorrow = spans_midnight and clock >= self.start
        day = local.date() + timedelta(days=1) if tomorrow else local.date()
        over = datetime.combine(day, self.end, self.zone)
        if over.astimezone(UTC) <= now:
            # The clock was set back: it shows the end a second time.
            over = over.replace(fold=1)
        return over.astimezone(UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class DestinationPolicy:
    """How notifications are delivered to one destination.

    Attributes:
        name: unique among the destinations.
        kind: the destination's kind, such as ``slack``.
        reveal: how much of a code, its text and its phone number a notification shows.
        per_second: maximum messages per second; None for no limit.
        burst: maximum messages at once after a pause.
        coalesce: whether one message may contain several codes when the limit is reached.
        on_unknown: what to do when the outcome of a delivery is unknown.
        fallback: the destination that receives the notifications while this one is disabled.
        quiet_hours: when all but urgent notifications wait.
    """

    name: str
    kind: str
    reveal: Reveal = "full"
    per_second: float | None = None
    burst: int = 1
    coalesce: bool = True
    on_unknown: OnUnknown = "repeat"
    fallback: str | None = None
    quiet_hours: QuietHours | None = None

    @property
    def max_in_flight(self) -> int:
        """Maximum messages in flight at once, over all processes."""
        return MAX_IN_FLIGHT if self.coalesce else MAX_IN_FLIGHT_SINGLE
