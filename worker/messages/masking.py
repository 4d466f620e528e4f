"""What may be seen of a secret by those who must not see it: enough to know one's own by."""

from __future__ import annotations

_DOT = "•"
_MOST_DOTS = 8


def code(text: str) -> str:
    """A code by which its owner knows it: two characters of six or more, one of four or five."""
    visible = 2 if len(text) >= 6 else 1 if len(text) >= 4 else 0
    return text[:visible] + _dots(len(text) - visible)


def phone(number: str) -> str:
    """A phone number without what tells it from its neighbours."""
    head, tail = (5, 3) if len(number) >= 12 else (3, 2) if len(number) >= 9 else (0, 0)
    return number[:head] + _dots(len(number) - head - tail) + number[len(number) - tail :]


def hidden(_: str) -> str:
    """Nothing, not even the length."""
    return _dots(_MOST_DOTS)


def _dots(count: int) -> str:
    return _DOT * min(count, _MOST_DOTS)
