"""Times as providers write them: ISO 8601, RFC 2822, and Unix time, as text or number."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

# Unix times in seconds lie below this; larger ones are milliseconds, microseconds, nanoseconds.
_LARGEST_SECONDS = 1e11
_NUMBER = re.compile(r"[+-]?\d{1,20}(?:\.\d{1,12})?")
EARLIEST, LATEST = datetime(1970, 1, 2, tzinfo=UTC), datetime(9998, 12, 31, tzinfo=UTC)
_ZONE_NAME = re.compile(r"\s*\(?(?:UTC|GMT|Z)\)?$", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class ReadTime:
    """A time in UTC; ``certain`` is False where no zone was written."""

    at: datetime
    certain: bool


def read_time(value: object) -> ReadTime | None:
    """The time that ``value`` says; None where it says none that can be read.

    A time far out of range is moved to the nearest one that every database holds.
    """
    if isinstance(value, bool):
        return None
    if isinstance(value, (int, float)):
        return _unix(float(value))
    if not isinstance(value, str):
        return None
    text = value.strip()
    if _NUMBER.fullmatch(text) and len(text.lstrip("+-").partition(".")[0]) >= 9:
        return _unix(float(text))
    moment = _iso(text) or _rfc2822(text)
    if moment is None:
        return None
    return ReadTime(clamped(moment), certain=moment.tzinfo is not None)


def _unix(seconds: float) -> ReadTime | None:
    if not math.isfinite(seconds) or abs(seconds) > 1e21:
        return None
    while abs(seconds) >= _LARGEST_SECONDS:
        seconds /= 1000
    try:
        return ReadTime(clamped(datetime.fromtimestamp(seconds, UTC)), certain=True)
    except (ValueError, OverflowError, OSError):
        return None


def _iso(text: str) -> datetime | None:
    spelled = text.upper().replace("/", "-")
    zone = _ZONE_NAME.search(spelled)
    if zone is not None:
        spelled = spelled[: zone.start()]
        # "+0000 UTC", as some languages print it, names its zone twice.
        if not re.search(r"[+-]\d\d:?\d\d$", spelled[10:]):
            spelled += "Z"
    spelled = re.sub(r"\s+(?=[+-]\d\d)", "", spelled)
    try:
        return datetime.fromisoformat(spelled)
    except ValueError:
        return None


def _rfc2822(text: str) -> datetime | None:
    try:
        return parsedate_to_datetime(text)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None


def clamped(moment: datetime) -> datetime:
    """The time in UTC, moved into what every database holds; UTC if it has no zone.

    A year is left on either side of it for what is added or subtracted.
    """
    aware = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    try:
        aware = aware.astimezone(UTC)
    except OverflowError:
        return LATEST if aware.year > 5000 else EARLIEST
    return min(max(aware, EARLIEST), LATEST)
