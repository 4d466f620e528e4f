"""Reading fields of a payload: text, identifiers, labels and times."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from receiver.errors import MalformedPayload
from receiver.providers.base import MAX_NAME_LENGTH, identifier_of, label_of, text_of, time_of
from receiver.providers.times import ReadTime

SECRET = "483921"
KINDS: list[tuple[Any, str]] = [
    (True, "a boolean"),
    (["483921"], "a list"),
    ({"483921": "483921"}, "an object"),
]


def test_the_first_field_with_text_is_returned() -> None:
    """Absent, null, empty and blank fields are skipped; numbers are text."""
    fields = {"a": None, "b": "", "c": " null ", "d": "y\r\n", "e": 7, "f": 7.0}
    assert text_of(fields, "zz", "a", "b", "c", "d") == "y"
    assert text_of(fields, "a", "b", "c") is None
    assert [text_of(fields, name) for name in ("e", "f")] == ["7", "7"]


@pytest.mark.parametrize(("value", "kind"), KINDS)
def test_a_wrong_type_is_named_without_its_value(value: Any, kind: str) -> None:
    """Objects, lists and booleans are not converted; the error has the field and the type only."""
    with pytest.raises(MalformedPayload) as refused:
        text_of({"code": value}, "code")
    assert str(refused.value) == f"code: expected text, found {kind}"
    assert SECRET not in repr(refused.value)


def test_a_missing_identifier_is_named() -> None:
    """The error has the first of the alternative names, which is the documented one."""
    with pytest.raises(MalformedPayload, match=r"^order_id: missing or empty$"):
        identifier_of({"id": ""}, "order_id", "id")


@pytest.mark.parametrize("value", ["x" * (MAX_NAME_LENGTH + 1), "a\x00b", "a\nb", "\x1b[31m"])
def test_an_identifier_is_short_and_printable(value: str) -> None:
    """Values that a database, a terminal or an index cannot hold are rejected."""
    with pytest.raises(MalformedPayload, match="order_id: over 200 characters, or not printable"):
        identifier_of({"order_id": value}, "order_id")
    assert label_of({"service": value}, "service") is None


def test_the_longest_identifier_is_accepted() -> None:
    """The limit is inclusive."""
    value = "ü" * MAX_NAME_LENGTH
    assert identifier_of({"order_id": value}, "order_id") == value


@pytest.mark.parametrize(
    ("value", "label"),
    [
        ("GB", "GB"),
        (25, "25"),
        (25.5, "25.5"),
        ({"iso": "GB"}, "GB"),
        (True, None),
        ("", None),
        ([], None),
        ({}, None),
    ],
)
def test_an_unusable_label_is_none(value: Any, label: str | None) -> None:
    """A label of another type is dropped, since no code should wait for it."""
    assert label_of({"country": value}, "country") == label


@pytest.mark.parametrize(
    ("value", "moment"),
    [
        ("2026-06-11T09:14:27Z", datetime(2026, 6, 11, 9, 14, 27, tzinfo=UTC)),
        ("2026-06-11t09:14:27.318z", datetime(2026, 6, 11, 9, 14, 27, 318000, tzinfo=UTC)),
        ("2026-06-11T11:14:27+02:00", datetime(2026, 6, 11, 9, 14, 27, tzinfo=UTC)),
        ("2026-06-11 11:14:27 +0200", datetime(2026, 6, 11, 9, 14, 27, tzinfo=UTC)),
        ("2026-06-11 09:14:27 +0000 UTC", datetime(2026, 6, 11, 9, 14, 27, tzinfo=UTC)),
        ("2026/06/11 09:14:27 GMT", datetime(2026, 6, 11, 9, 14, 27, tzinfo=UTC)),
        ("20260611T091427Z", datetime(2026, 6, 11, 9, 14, 27, tzinfo=UTC)),
        ("Thu, 11 Jun 2026 09:14:27 GMT", datetime(2026, 6, 11, 9, 14, 27, tzinfo=UTC)),
        (1781169267, datetime(2026, 6, 11, 9, 14, 27, tzinfo=UTC)),
        ("1781169267.5", datetime(2026, 6, 11, 9, 14, 27, 500000, tzinfo=UTC)),
        (1781169267318, datetime(2026, 6, 11, 9, 14, 27, 318000, tzinfo=UTC)),
        ("1781169267318000", datetime(2026, 6, 11, 9, 14, 27, 318000, tzinfo=UTC)),
        ("9999-12-31T23:59:59-14:00", datetime(9998, 12, 31, tzinfo=UTC)),
    ],
)
def test_a_time_is_read_in_every_usual_format(value: Any, moment: datetime) -> None:
    """ISO 8601, RFC 2822 and Unix time give UTC; what is out of range is clamped."""
    assert time_of({"at": value}, "at") == ReadTime(moment, certain=True)


@pytest.mark.parametrize("value", ["2026-06-11 09:14:27", "2026-06-11", "11 Jun 2026 09:14:27"])
def test_a_time_without_a_zone_is_uncertain(value: str) -> None:
    """It is taken as UTC, and marked."""
    read = time_of({"at": value}, "at")
    assert read is not None
    assert not read.certain
    assert read.at.tzinfo is UTC


@pytest.mark.parametrize(
    "value",
    [
        *("yesterday", "", None, True, [], {}, "\ud800", "2026-13-01T00:00:00Z"),
        *(10**60, -(10**60), 1e308, float("inf"), float("nan")),
    ],
)
def test_an_invalid_time_is_none(value: Any) -> None:
    """An invalid time never rejects an event, and the next field is tried."""
    assert time_of({"at": value}, "at") is None
    later = ReadTime(datetime(2026, 6, 11, tzinfo=UTC), certain=True)
    assert time_of({"at": value, "then": "2026-06-11T00:00:00Z"}, "at", "then") == later


@settings(max_examples=50, deadline=None)
@given(st.datetimes(timezones=st.sampled_from([UTC, timezone(timedelta(hours=-7))])))
def test_every_iso_time_is_read_back(moment: datetime) -> None:
    """Every time in ISO 8601 is read back, within the range that every database holds."""
    read = time_of({"at": moment.isoformat()}, "at")
    assert read is not None
    assert read.at == moment or moment.year <= 1970 or moment.year >= 9998
