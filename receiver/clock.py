"""The host's clock, in one place so that tests can replace it."""

from __future__ import annotations

from datetime import UTC, datetime


def now() -> datetime:
    """The host's time, aware, in UTC."""
    return datetime.now(UTC)
