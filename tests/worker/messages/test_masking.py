"""Masked forms of secrets."""

from __future__ import annotations

import pytest

from worker.messages import masking


@pytest.mark.parametrize(
    ("code", "masked"),
    [("483921", "48••••"), ("G-559310", "G-••••••"), ("1234", "1•••"), ("123", "•••"), ("", "")],
)
def test_masked_codes(code: str, masked: str) -> None:
    """Two characters of six are visible, and none of three."""
    assert masking.code(code) == masked


@pytest.mark.parametrize(
    ("phone", "masked"),
    [
        ("+447700900123", "+4477•••••123"),
        ("+12025550147", "+1202••••147"),
        ("202555014", "202••••14"),
        ("12345", "•••••"),
        ("1" * 40, "11111••••••••111"),
    ],
)
def test_masked_numbers(phone: str, masked: str) -> None:
    """Both ends of a long number are visible, nothing of a short one."""
    assert masking.phone(phone) == masked


def test_hidden_text_does_not_show_its_length() -> None:
    """Every text has the same masked form."""
    assert masking.hidden("483921") == masking.hidden("") == "••••••••"


def test_a_field_is_masked_by_its_name() -> None:
    """One that the table does not have is hidden entirely; an unknown value stays unknown."""
    assert masking.mask("code", "483921") == masking.code("483921")
    assert masking.mask("phone_number", "+447700900123") == masking.phone("+447700900123")
    assert masking.mask("text", "x") == masking.mask("api_key", "x") == masking.hidden("")
    assert masking.mask("code", None) is None


def test_long_numbers_in_a_text() -> None:
    """Short numbers, such as a status, stay."""
    assert masking.long_numbers("429 for 447700900123") == "429 for ••••••"
