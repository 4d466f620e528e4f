"""Durations as people write them: 90m, 24h, 30d."""

from __future__ import annotations

import re
from datetime import timedelta

_DURATION = re.compile(r"([0-9]{1,9})([smhdw])")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def parse(text: str) -> timedelta | None:
    """Parse a whole number followed by s, m, h, d or w; None if ``text`` has another form.

    One that is too long is the longest possible.
    """
    match = _DURATION.fullmatch(text.strip())
    if match is None:
        return None
    try:
        return timedelta(**{_UNITS[match[2]]: int(match[1])})
    except OverflowError:
        return timedelta.max
