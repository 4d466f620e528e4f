"""What goes wrong with an API call, by the dice and as often as the knobs say."""

from __future__ import annotations

import enum
import itertools

from worker.simulator.knobs import Dice, Knobs


class Fault(enum.Enum):
    """How a call fails."""

    TOO_MANY = "refused as one too many"
    UNAVAILABLE = "refused because the provider is away"
    BROKEN_BEFORE = "broken without an effect"
    BROKEN_AFTER = "broken after its effect"
    CUT = "done, and its connection cut"


class Faults:
    """Draws for one call after the other; for one thread, the server's."""

    def __init__(self, knobs: Knobs) -> None:
        self._knobs = knobs
        self._dice = Dice(knobs.seed)
        self._numbers = itertools.count()

    def draw(self) -> Fault | None:
        """How the next call fails; None: not at all."""
        knobs, number = self._knobs, next(self._numbers)
        roll = self._dice.roll("fault", number)
        for fault, fraction in (
            (Fault.TOO_MANY, knobs.api_429),
            (Fault.UNAVAILABLE, knobs.api_503),
            (Fault.BROKEN_BEFORE, knobs.api_500 / 2),
            (Fault.BROKEN_AFTER, knobs.api_500 / 2),
            (Fault.CUT, knobs.api_cut),
        ):
            if roll < fraction:
                return fault
            roll -= fraction
        return None
