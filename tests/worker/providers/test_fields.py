from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worker.providers.fields import Fields


@pytest.mark.parametrize(
    ("text", "phone"),
    [
        ("+79001234567", "+79001234567"),
        ("+44 (7700) 900-123", "+447700900123"),
        ("00447700900123", "+447700900123"),
        ("628123456789", "628123456789"),
        ("5551234567", "5551234567"),
        ("07700 900123", "07700 900123"),
        ("unknown", "unknown"),
        ("+12", "+12"),
    ],
)
def test_phone_numbers(text: str, phone: str) -> None:
    """Numbers with an international prefix become E.164; anything else stays unchanged."""
    assert Fields({"phone": text}).phone("phone") == phone


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text() | st.decimals(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=5,
)


@settings(deadline=None)
@given(json_values)
def test_no_value_crashes_a_reader(value: object) -> None:
    """Every method accepts any JSON value as a field, or as the object itself."""
    for item in (Fields({"a": value}), Fields(value)):
        readers = (item.text, item.number, item.integer, item.time, item.phone, item.items)
        assert [read("a", "b") for read in readers]
        assert [read("a", "b") for read in (item.label, item.code, item.flag, item.records)]
        assert item.record("a").raw is not None
        assert item.unwrapped("a", "b").rest() is not None


def test_the_first_usable_name_counts() -> None:
    """An unusable field does not hide a usable one with another name."""
    item = Fields({"a": None, "b": "", "c": True, "d": 0, "e": "5"})
    assert item.text("a", "b", "c", "d", "e") == "0"
    assert item.integer("a", "b", "c", "e") == 5


@pytest.mark.parametrize("name", ["phone_number", "phoneNumber", "PhoneNumber", "phone-number"])
def test_a_name_is_found_in_every_spelling(name: str) -> None:
    """The documented one is preferred."""
    assert Fields({name: "+447700900123"}).phone("phone_number") == "+447700900123"
    both = Fields({name: "+447700900123", "phone_number": "+447700900555"})
    assert both.phone("phone_number") == "+447700900555"


@pytest.mark.parametrize("value", [None, "", " \t", "null", "NULL", "\u200b\ufeff", "\xa0", [None]])
def test_no_value(value: object) -> None:
    """Blank text and the word for nothing are no value, and hide no other name's."""
    item = Fields({"a": value, "b": "x"})
    assert not item.has("a")
    assert item.text("a", "b") == item.label("a", "b") == item.code("a", "b")[0] == "x"
    assert item.rest() == {}


@pytest.mark.parametrize(
    ("value", "label"),
    [
        (123456789, "123456789"),
        ("123456789", "123456789"),
        (Decimal("123456789.0"), "123456789"),
        (12345678901234567890123, "12345678901234567890123"),
        (" ord_1\u200b\n", "ord_1"),
        (["ord_1"], "ord_1"),
        (Decimal("1.5"), None),
        (True, None),
        ("a\0b", None),
        ("a\ud800", None),
        ("a" * 201, None),
        (["a", "b"], None),
    ],
)
def test_identifiers(value: object, label: str | None) -> None:
    """Numbers or text; what no database holds is none, and is kept."""
    item = Fields({"id": value})
    assert item.label("id") == label
    assert item.rest() == ({} if label else {"id": value})


@pytest.mark.parametrize(
    ("value", "phone"),
    [
        (447700900123, "447700900123"),
        ("447700900123", "447700900123"),
        ("07700 900123", "07700 900123"),
        ("0151 12345678", "0151 12345678"),
        ("13800138000", "13800138000"),
        ("+44 7700 900-123", "+447700900123"),
        ("\u200e+44\xa07700\u202f900123 ", "+447700900123"),
        ("0044 7700 900123", "+447700900123"),
        ("+٤٤٧٧٠٠٩٠٠١٢٣", "+447700900123"),
        ("null", None),
    ],
)
def test_phone_numbers_of_an_answer(value: object, phone: str | None) -> None:
    """Without an international prefix a number keeps its form, its zeros as well."""
    assert Fields({"phone": value}).phone("phone") == phone


AT = datetime(2026, 3, 14, 7, 0, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("value", "at"),
    [
        ("2026-03-14T07:00:00Z", AT),
        ("2026-03-14T15:00:00.000+0800", AT),
        ("2026-03-14 07:00:00", AT),
        ("2026-03-14 07:00:00 UTC", AT),
        ("2026/03/14 07:00:00", AT),
        ("Sat, 14 Mar 2026 07:00:00 GMT", AT),
        (1773471600, AT),
        ("1773471600", AT),
        (1773471600000, AT),
        ("1773471600000", AT),
        (Decimal("1773471600.25"), AT.replace(microsecond=250_000)),
        (1773471600123456, AT.replace(microsecond=123_456)),
        ("2026-03-14T07:00:00.123456Z", AT.replace(microsecond=123_456)),
        ("2026-03-14T07:00:00.123456789Z", AT.replace(microsecond=123_456)),
        ("0001-01-01T00:00:00Z", None),
        ("0000-00-00 00:00:00", None),
        ("1970-01-01T00:00:00Z", None),
        (0, None),
        ("tomorrow", None),
        (True, None),
        (10**400, None),
        (Decimal("1e400"), None),
    ],
)
def test_times(value: object, at: datetime | None) -> None:
    """In every usual spelling, with microseconds; what languages write for "never" is none."""
    assert Fields({"at": value}).time("at") == at


def test_what_wraps_an_object() -> None:
    """It is found in what is around it, whose other fields it takes over."""
    order = {"order_id": "1", "new": 1}
    for payload in (
        {"success": True, "data": order, "new_balance": 2},
        {"data": {"order": order, "new_balance": 2}},
        {"id": "req_1", "result": {"data": [order]}},
        [{"data": order}],
    ):
        found = Fields(payload).unwrapped("order_id", "id")
        assert found.label("order_id") == "1"
        assert found.rest().pop("new") == 1
        assert "success" not in found.rest()
    assert found.raw is order
    flat = Fields({"order_id": "1", "data": {"id": "message"}})
    assert flat.unwrapped("order_id", "id") is flat
    empty = Fields({"order_id": "1", "data": []})
    assert empty.unwrapped("order_id", "id") is empty


def test_what_is_left() -> None:
    """Everything that no method returned, within nested objects, too."""
    item = Fields({"a": 1, "b": {"c": 2, "d": 3}, "e": [{"f": 4}, {"f": 5}], "g": "x", "h": "y"})
    assert item.integer("a") == 1
    assert item.record("b").integer("c") == 2
    assert item.records("e")[0].integer("f") == 4
    assert item.number("g") is None
    assert item.text("i", "h") == "y"
    assert item.rest() == {"b": {"d": 3}, "e": [{"f": 5}], "g": "x"}


@pytest.mark.parametrize(
    ("value", "flag"),
    [(True, True), ("True", True), (1, True), ("no", False), (0, False), ("x", None), ({}, None)],
)
def test_flags(value: object, flag: bool | None) -> None:
    """Truth values, also as words and numbers."""
    assert Fields({"a": value}).flag("a") is flag
