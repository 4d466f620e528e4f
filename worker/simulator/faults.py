"""Random faults of API calls, as often as the knobs set."""

from __future__ import annotations

import enum
import itertools

from worker.simulator.knobs import Knobs, SeededRandom


class Fault(enum.Enum):
    """How a call fails."""

    TOO_MANY = "rejected with 429"
    UNAVAILABLE = "rejected as unavailable"
    BROKEN_BEFORE = "fails with 500, without an effect"
    BROKEN_AFTER = "fails with 500, after its effect"
    CUT = "takes effect, then the connection is cut"


class Faults:
    """Draws a fault for each call in sequence; only the server's thread may use it."""

    def __init__(self, knobs: Knobs) -> None:
        self._knobs = knobs
        self._random = SeededRandom(knobs.seed)
        self._numbers = itertools.count()

    def draw(self) -> Fault | None:
        """The fault of the next call; None if it does not fail."""
        knobs, number = self._knobs, next(self._numbers)
        drawn = self._random.fraction("fault", number)
        for fault, probability in (
            (Fault.TOO_MANY, knobs.api_429),
            (Fault.UNAVAILABLE, knobs.api_503),
            (Fault.BROKEN_BEFORE, knobs.api_500 / 2),
            (Fault.BROKEN_AFTER, knobs.api_500 / 2),
            (Fault.CUT, knobs.api_cut),
        ):
            if drawn < probability:
                return fault
            drawn -= probability
        return None
