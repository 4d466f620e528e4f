"""Masked forms of secrets: enough for the owner to recognise them, no more."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, Final

_DOT = "•"
_MAX_DOTS = 8
# Six digits or more may be a code, a phone number or a key.
_LONG_NUMBER = re.compile(r"\d{6,}")


def code(text: str) -> str:
    """Mask a code: two characters of six or more stay, one of four or five, else none."""
    visible = 2 if len(text) >= 6 else 1 if len(text) >= 4 else 0
    return text[:visible] + _dots(len(text) - visible)


def phone(number: str) -> str:
    """Mask a phone number: a few characters at both ends stay, none of a short number."""
    head, tail = (5, 3) if len(number) >= 12 else (3, 2) if len(number) >= 9 else (0, 0)
    return number[:head] + _dots(len(number) - head - tail) + number[len(number) - tail :]


def hidden(_: str) -> str:
    """Mask everything, the length too."""
    return _dots(_MAX_DOTS)


def long_numbers(text: str) -> str:
    """Mask every run of six digits or more in a text that is not secret as a whole."""
    return _LONG_NUMBER.sub(_dots(6), text)


# How each field is masked, by its name everywhere.
MASKS: Final[Mapping[str, Callable[[str], str]]] = {
    "code": code,
    "phone_number": phone,
    "text": hidden,
    "body": hidden,
    "origin": hidden,
}


def mask(field: str, value: Any) -> str | None:
    """Mask the value of a secret field; entirely if the field is not in the table."""
    return None if value is None else MASKS.get(field, hidden)(str(value))


def _dots(count: int) -> str:
    return _DOT * min(count, _MAX_DOTS)
