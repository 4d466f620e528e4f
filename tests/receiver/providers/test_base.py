"""Reading fields of a payload: text, identifiers, labels and times."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from receiver.errors import MalformedPayload
from receiver.providers.base import (
    MAX_NAME_LENGTH,
    identifier_of,
    label_of,
    required_text,
    text_of,
    time_of,
)

SECRET = "483921"
KINDS: list[tuple[Any, str]] = [
    (483921, "a number"),
    (483921.5, "a number"),
    (True, "a boolean"),
    (["483921"], "a list"),
    ({"483921": "483921"}, "an object"),
]


def test_the_first_field_with_text_is_returned() -> None:
    """Absent, null and empty fields are skipped."""
    fields = {"a": None, "b": "", "c": "x", "d": "y"}
    assert text_of(fields, "zz", "a", "b", "c", "d") == "x"
    assert text_of(fields, "a", "b") is None
    assert required_text(fields, "b", "d") == "y"


@pytest.mark.parametrize(("value", "kind"), KINDS)
def test_a_wrong_type_is_named_without_its_value(value: Any, kind: str) -> None:
    """Other types are not converted; the error has the field and the type only."""
    with pytest.raises(MalformedPayload) as refused:
        text_of({"code": value}, "code")
    assert str(refused.value) == f"code: expected text, found {kind}"
    assert SECRET not in repr(refused.value)


def test_a_missing_field_is_named() -> None:
    """The error lists every alternative name."""
    with pytest.raises(MalformedPayload, match=r"^code or sms_code: missing or empty$"):
        required_text({"sms_code": ""}, "code", "sms_code")


@pytest.mark.parametrize(
    "value",
    ["x" * (MAX_NAME_LENGTH + 1), "a\x00b", "a\nb", "\ud800", "\u202e", "\x1b[31m", "a\u00a0b"],
)
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
    [("GB", "GB"), (25, "25"), (25.5, "25.5"), (True, None), ("", None), ([], None), ({}, None)],
)
def test_an_unusable_label_is_none(value: Any, label: str | None) -> None:
    """A label of another type is dropped, since no code should wait for it."""
    assert label_of({"country": value}, "country") == label


@pytest.mark.parametrize(
    ("value", "moment"),
    [
        ("2026-06-11T09:14:27Z", datetime(2026, 6, 11, 9, 14, 27, tzinfo=UTC)),
        ("2026-06-11T09:14:27.318Z", datetime(2026, 6, 11, 9, 14, 27, 318000, tzinfo=UTC)),
        ("2026-06-11T11:14:27+02:00", datetime(2026, 6, 11, 9, 14, 27, tzinfo=UTC)),
        ("2026-06-11 09:14:27", datetime(2026, 6, 11, 9, 14, 27, tzinfo=UTC)),
        ("2026-06-11", datetime(2026, 6, 11, tzinfo=UTC)),
        (1781169267, datetime(2026, 6, 11, 9, 14, 27, tzinfo=UTC)),
        (1781169267.5, datetime(2026, 6, 11, 9, 14, 27, 500000, tzinfo=UTC)),
    ],
)
def test_a_time_is_read_in_every_usual_format(value: Any, moment: datetime) -> None:
    """ISO 8601 with or without an offset and Unix seconds give UTC."""
    read = time_of({"at": value}, "at")
    assert read == moment
    assert read is not None
    assert read.tzinfo is UTC


@pytest.mark.parametrize(
    "value",
    [
        "yesterday",
        "",
        None,
        True,
        [],
        {},
        "\ud800",
        "2026-13-01T00:00:00Z",
        "0001-01-01T00:00:00+14:00",
        "9999-12-31T23:59:59-14:00",
        10**60,
        -(10**60),
        1e308,
        float("inf"),
        1781169267318,
    ],
)
def test_an_invalid_time_is_none(value: Any) -> None:
    """An invalid time never rejects an event, and the next field is tried."""
    assert time_of({"at": value}, "at") is None
    later = datetime(2026, 6, 11, tzinfo=UTC)
    assert time_of({"at": value, "then": "2026-06-11"}, "at", "then") == later


@settings(max_examples=50, deadline=None)
@given(st.datetimes(timezones=st.sampled_from([UTC, timezone(timedelta(hours=-7))])))
def test_every_iso_time_is_read_back(moment: datetime) -> None:
    """Every time in ISO 8601 is read back, or None if its UTC is out of range."""
    read = time_of({"at": moment.isoformat()}, "at")
    assert read == moment or (read is None and moment.year in (1, 9999))
