"""When to try again: exponential, with full jitter, up to six hours."""

from __future__ import annotations

import random
from datetime import timedelta

FIRST_SECONDS = 2.0
LONGEST_SECONDS = 6 * 3600.0
_SHORTEST_SECONDS = 0.5


def after(attempt: int) -> timedelta:
    """How long to wait after the ``attempt``-th failure (from 1), at random up to the ceiling.

    Full jitter spreads the retries of many rows that failed in the same moment.
    """
    ceiling = min(LONGEST_SECONDS, FIRST_SECONDS * 2 ** min(attempt, 20))
    return timedelta(seconds=random.uniform(_SHORTEST_SECONDS, ceiling))  # noqa: S311 - no secret
