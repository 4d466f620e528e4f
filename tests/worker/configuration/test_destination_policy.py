"""Quiet hours in any time zone."""

from __future__ import annotations

from datetime import UTC, datetime, time, timedelta
from zoneinfo import ZoneInfo

from hypothesis import example, given
from hypothesis import strategies as st

from worker.configuration.destination_policy import QuietHours

# Clocks that are set back at night, at midnight, and by half an hour.
ZONES = ["Europe/London", "America/Havana", "Asia/Beirut", "Australia/Lord_Howe", "UTC"]
_minutes = st.integers(0, 24 * 60 - 1)


def _clock(minute: int) -> time:
    return time(minute // 60, minute % 60)


@given(
    zone=st.sampled_from(ZONES),
    start=_minutes,
    length=st.integers(1, 24 * 60 - 1),
    minute=st.integers(0, 366 * 24 * 60),
)
# The second 01:10 of that night: the end, 01:30, has already passed once.
@example(zone="Europe/London", start=22 * 60, length=210, minute=427_750)
def test_the_end_is_in_the_future(zone: str, start: int, length: int, minute: int) -> None:
    """A delivery never waits for a time that is past, or still within quiet hours."""
    hours = QuietHours(_clock(start), _clock((start + length) % (24 * 60)), ZoneInfo(zone))
    now = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(minutes=minute)
    until = hours.until(now)
    if until is not None:
        assert now < until <= now + timedelta(hours=25)
        assert hours.until(until) is None


def test_the_repeated_hour() -> None:
    """If the clock shows the end twice, the second one counts between the two."""
    hours = QuietHours(time(22), time(1, 30), ZoneInfo("Europe/London"))
    assert hours.until(datetime(2026, 10, 25, 1, 10, tzinfo=UTC)) == datetime(
        2026, 10, 25, 1, 30, tzinfo=UTC
    )
