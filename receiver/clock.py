"""The host's clock, in one place so that tests can replace it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Literal


def now() -> datetime:
    """The host's time, aware, in UTC."""
    return datetime.now(UTC)


def iso(
    moment: datetime, unit: Literal["seconds", "milliseconds", "microseconds"] = "milliseconds"
) -> str:
    """``moment`` as ISO 8601 in UTC, cut to ``unit``; without a zone it counts as UTC."""
    aware = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return f"{aware.astimezone(UTC).isoformat(timespec=unit)[:-6]}Z"
