"""How one destination is to be told things: what its owner chose, whatever its kind."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta
from typing import Final, Literal
from zoneinfo import ZoneInfo

Reveal = Literal["full", "masked", "none"]
OnUnknown = Literal["repeat", "hold"]
# Few where what waits shares a message; where each row wants its own, this is what limits how many
# there are in a second.
IN_HAND: Final = 4
IN_HAND_ALONE: Final = 16


@dataclass(frozen=True, slots=True)
class QuietHours:
    """The part of each day, by the clocks of a zone, in which nobody there wants to be woken.

    ``start`` is quiet, ``end`` no longer is; a span that ends before it starts lies across
    midnight.
    """

    start: time
    end: time
    zone: ZoneInfo

    def until(self, now: datetime) -> datetime | None:
        """When the quiet that ``now`` (aware) lies in is over, in UTC; None outside of it."""
        local = now.astimezone(self.zone)
        clock = local.time()
        across = self.end <= self.start
        quiet = (
            clock >= self.start or clock < self.end if across else self.start <= clock < self.end
        )
        if not quiet:
            return None
        tomorrow = across and clock >= self.start
        day = local.date() + timedelta(days=1) if tomorrow else local.date()
        over = datetime.combine(day, self.end, self.zone)
        if over.astimezone(UTC) <= now:
            # The clock went back: it shows the end a second time.
            over = over.replace(fold=1)
        return over.astimezone(UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class DestinationPolicy:
    """One destination's choices.

    Attributes:
        name: unique among the destinations.
        kind: the word that names its class.
        reveal: how much of a code, its text and its number it is shown.
        per_second: messages it is sent in a second at most; None for no limit.
        burst: messages it may be sent at once after a pause.
        coalesce: whether one message may tell several codes when more wait than may be sent.
        on_unknown: what to do where nobody knows whether a message arrived.
        fallback: the destination that is told instead while this one is disabled.
        quiet_hours: when it is told nothing but what cannot wait.
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
    def most_in_hand(self) -> int:
        """How many messages to it are being sent at once, at most, in all processes together."""
        return IN_HAND if self.coalesce else IN_HAND_ALONE
