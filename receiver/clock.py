"""The host's clock, in one place so that tests can replace it."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Final, Literal

_BOOTTIME: Final[int] = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def now() -> datetime:
    """The host's time, aware, in UTC."""
    return datetime.now(UTC)


def boottime() -> float:
    """Seconds of a clock that never goes back and also runs while the machine is suspended.

    For deadlines that others rely on, such as a lease. Where the system has no such clock
    (``CLOCK_BOOTTIME`` is Linux's), it stands still in suspension.
    """
    return time.clock_gettime(_BOOTTIME)


def iso(
    moment: datetime, unit: Literal["seconds", "milliseconds", "microseconds"] = "milliseconds"
) -> str:
    """``moment`` as ISO 8601 in UTC, cut to ``unit``; without a zone it counts as UTC."""
    aware = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return f"{aware.astimezone(UTC).isoformat(timespec=unit)[:-6]}Z"
