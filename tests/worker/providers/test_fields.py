from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worker.providers.fields import Fields, normalise_phone


@pytest.mark.parametrize(
    ("text", "phone"),
    [
        ("+79001234567", "+79001234567"),
        ("+44 (7700) 900-123", "+447700900123"),
        ("00447700900123", "+447700900123"),
        ("628123456789", "+628123456789"),
        ("5551234567", "5551234567"),
        ("07700 900123", "07700 900123"),
        ("unknown", "unknown"),
        ("+12", "+12"),
    ],
)
def test_phone_numbers(text: str, phone: str) -> None:
    """Clearly international numbers become E.164; anything else stays unchanged."""
    assert normalise_phone(text) == phone


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
        assert item.record("a").raw is not None


def test_the_first_usable_name_counts() -> None:
    """An unusable field does not hide a usable one with another name."""
    item = Fields({"a": None, "b": "", "c": True, "d": 0, "e": "5"})
    assert item.text("a", "b", "c", "d", "e") == "0"
    assert item.integer("a", "b", "c", "e") == 5
