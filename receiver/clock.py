"""The one place that asks the host what time it is, so that a test can answer instead."""

from __future__ import annotations

from datetime import UTC, datetime


def now() -> datetime:
    """The host's time, aware, in UTC."""
    return datetime.now(UTC)
