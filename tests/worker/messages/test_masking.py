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
