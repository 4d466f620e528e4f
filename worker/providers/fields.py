"""Reading a provider's JSON: what is there in a usable form, or None."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from typing import TypeVar

T = TypeVar("T")

_SEPARATORS = re.compile(r"[\s().\-]")
_INTERNATIONAL = re.compile(r"(?:\+|00)([1-9][0-9]{6,14})")
# Eleven digits or more begin with a country code; fewer may as well be a national number.
_BARE = re.compile(r"([1-9][0-9]{10,14})")
_FIRST_MILLISECONDS = 100_000_000_000
_MOST_DIGITS = 18


class MissingFieldError(Exception):
    """An answer lacks what it is for; the text names the field, and holds no value."""


class Fields:
    """One JSON object of an answer; what is no object reads as an empty one.

    A reader takes the names a field goes by, in order of preference, and gives the first value
    that is of its kind.
    """

    __slots__ = ("raw",)

    def __init__(self, raw: object = None) -> None:
        self.raw: Mapping[str, object] = raw if isinstance(raw, Mapping) else {}

    def text(self, *names: str) -> str | None:
        """A string that is not empty; a whole number counts as its digits."""
        for value in self._values(names):
            if isinstance(value, str) and value:
                return value
            if isinstance(value, int) and not isinstance(value, bool):
                return str(value)
        return None

    def number(self, *names: str) -> Decimal | None:
        """A finite number, to its last digit, from a JSON number or a text."""
        return _first(map(_decimal, self._values(names)))

    def integer(self, *names: str) -> int | None:
        """A whole number, from a JSON number or a text."""
        number = self.number(*names)
        return None if number is None or number % 1 else int(number)

    def time(self, *names: str) -> datetime | None:
        """Aware UTC time, from ISO 8601 (UTC where it has no offset) or Unix (milli)seconds."""
        return _first(map(_time, self._values(names)))

    def phone(self, *names: str) -> str | None:
        """A phone number, in E.164 where that is plain, else as it stands."""
        text = self.text(*names)
        return None if text is None else normalise_phone(text)

    def record(self, *names: str) -> Fields:
        """An object within this one; an empty one where there is none."""
        return Fields(_first(v for v in self._values(names) if isinstance(v, Mapping)))

    def items(self, *names: str) -> list[object] | None:
        """A list within this object."""
        return _first(v for v in self._values(names) if isinstance(v, list))

    def _values(self, names: tuple[str, ...]) -> Iterator[object]:
        return (self.raw[name] for name in names if name in self.raw)


def needed(value: T | None, name: str) -> T:
    """The value of a field that the answer is for.

    Raises:
        MissingFieldError: there is none.
    """
    if value is None:
        raise MissingFieldError(f"no usable {name}")
    return value


def normalise_phone(text: str) -> str:
    """``+`` and digits, where the text plainly is an international number; else the text."""
    bare = _SEPARATORS.sub("", text)
    found = _INTERNATIONAL.fullmatch(bare) or _BARE.fullmatch(bare)
    return f"+{found[1]}" if found else text


def _first(values: Iterable[T | None]) -> T | None:
    return next((value for value in values if value is not None), None)


def _decimal(value: object) -> Decimal | None:
    if isinstance(value, bool) or not isinstance(value, str | int | Decimal):
        return None
    try:
        number = Decimal(value)
    except InvalidOperation:
        return None
    # A hostile exponent would be written out as a gigabyte of zeros.
    return number if number.is_finite() and abs(number.adjusted()) <= _MOST_DIGITS else None


def _time(value: object) -> datetime | None:
    number = _decimal(value)
    try:
        if number is not None:
            seconds = number / 1000 if abs(number) >= _FIRST_MILLISECONDS else number
            return datetime.fromtimestamp(float(seconds), UTC)
        read = datetime.fromisoformat(value) if isinstance(value, str) else None
        if read is None:
            return None
        return read.replace(tzinfo=UTC) if read.tzinfo is None else read.astimezone(UTC)
    except (ValueError, OverflowError, OSError):
        return None
