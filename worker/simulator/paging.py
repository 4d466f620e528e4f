"""Cutting a page out of a list, as the query asks for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from worker.simulator.refusals import Refused

T = TypeVar("T")

_DEFAULT_SIZE = 20
_LARGEST_SIZE = 100


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """Some of a longer list."""

    items: Sequence[T]
    number: int
    size: int
    total: int


def cut(items: Sequence[T], query: Mapping[str, str], *, size: str, invalid: str) -> Page[T]:
    """The page that ``page`` and ``size`` (by its name) ask for; a size over 100 counts as 100.

    Raises:
        Refused: with the code ``invalid``, where one of them is no number from 1.
    """
    number = _positive(query, "page", 1, invalid)
    length = min(_positive(query, size, _DEFAULT_SIZE, invalid), _LARGEST_SIZE)
    start = (number - 1) * length
    return Page(items[start : start + length], number, length, len(items))


def _positive(query: Mapping[str, str], name: str, default: int, invalid: str) -> int:
    text = query.get(name, str(default))
    if not (text.isascii() and text.isdigit() and 0 < len(text) < 10 and int(text)):
        raise Refused(invalid, f"{name}: a whole number from 1")
    return int(text)
