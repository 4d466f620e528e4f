"""Pagination: the page of a list that a query asks for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from worker.simulator.errors import ApiError

T = TypeVar("T")

_DEFAULT_SIZE = 20
_LARGEST_SIZE = 100


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """One page of a list."""

    items: Sequence[T]
    number: int
    size: int
    total: int


def cut(items: Sequence[T], query: Mapping[str, str], *, size: str, invalid: str) -> Page[T]:
    """The page that the query's ``page`` and the parameter named ``size`` ask for, at most 100.

    Raises:
        ApiError: with the code ``invalid``, if one of them is not a whole number from 1.
    """
    number = whole_number(query, "page", 1, least=1, invalid=invalid)
    length = min(whole_number(query, size, _DEFAULT_SIZE, least=1, invalid=invalid), _LARGEST_SIZE)
    start = (number - 1) * length
    return Page(items[start : start + length], number, length, len(items))


def whole_number(
    query: Mapping[str, str], name: str, default: int, *, least: int, invalid: str
) -> int:
    """The parameter ``name`` of the query, or ``default``; raises ApiError as :func:`cut`."""
    text = query.get(name, str(default))
    if not (text.isascii() and text.isdigit() and len(text) < 10 and int(text) >= least):
        raise ApiError(invalid, f"{name} must be a whole number from {least}")
    return int(text)
