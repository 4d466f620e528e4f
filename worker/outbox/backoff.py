"""When to retry: exponential back-off with full jitter, up to six hours."""

from __future__ import annotations

import random
from datetime import timedelta

FIRST_SECONDS = 2.0
LONGEST_SECONDS = 6 * 3600.0
_SHORTEST_SECONDS = 0.5


def after(attempt: int) -> timedelta:
    """How long to wait after failure number ``attempt`` (from 1): random, up to a growing ceiling.

    Full jitter spreads the retries of many rows that failed at the same moment.
    """
    ceiling = min(LONGEST_SECONDS, FIRST_SECONDS * 2 ** min(attempt, 20))
    return timedelta(seconds=random.uniform(_SHORTEST_SECONDS, ceiling))  # noqa: S311 - no secret
