"""Spans of time as people write them: 90m, 24h, 30d."""

from __future__ import annotations

import re
from datetime import timedelta

_SPAN = re.compile(r"([0-9]{1,9})([smhdw])")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def parse(text: str) -> timedelta | None:
    """The span that ``text`` names, a whole number and s, m, h, d or w; None if it names none."""
    found = _SPAN.fullmatch(text.strip())
    if found is None:
        return None
    try:
        return timedelta(**{_UNITS[found[2]]: int(found[1])})
    except OverflowError:
        return None
