from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest

from receiver import clock


@pytest.mark.parametrize(
    "moment",
    [
        datetime(2025, 11, 22, 7, 51, 2, 999_999, tzinfo=UTC),
        datetime(2025, 11, 22, 9, 51, 2, 999_999, tzinfo=timezone(timedelta(hours=2))),
        datetime(2025, 11, 22, 7, 51, 2, 999_999, tzinfo=UTC).replace(tzinfo=None),
    ],
)
def test_iso_is_utc(moment: datetime) -> None:
    """A time of any zone, or of none, is written as UTC, cut to the unit."""
    assert clock.iso(moment) == "2025-11-22T07:51:02.999Z"
    assert clock.iso(moment, "seconds") == "2025-11-22T07:51:02Z"
    assert clock.iso(moment, "microseconds") == "2025-11-22T07:51:02.999999Z"


def test_iso_has_one_length() -> None:
    """A full second has its zeros."""
    assert clock.iso(datetime(2025, 11, 22, tzinfo=UTC)) == "2025-11-22T00:00:00.000Z"
