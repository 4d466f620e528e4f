"""Tolerant reading of a provider's JSON: each field in a usable form, or None."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from typing import TypeVar

T = TypeVar("T")

_SEPARATORS = re.compile(r"[\s().\-]")
_INTERNATIONAL = re.compile(r"(?:\+|00)([1-9][0-9]{6,14})")
# From eleven digits on, a number starts with a country code; shorter ones may be national.
_DIGITS_ONLY = re.compile(r"([1-9][0-9]{10,14})")
# From this value on, a Unix time is in milliseconds.
_MIN_MILLISECONDS = 100_000_000_000
_MAX_DIGITS = 18


class MissingFieldError(Exception):
    """A response lacks a required field; the message names the field and holds no value."""


class Fields:
    """One JSON object of a response; any other value counts as an empty object.

    Each method takes the alternative names of a field in order of preference, and returns the
    first value of its type, or None.
    """

    __slots__ = ("raw",)

    def __init__(self, raw: object = None) -> None:
        self.raw: Mapping[str, object] = raw if isinstance(raw, Mapping) else {}

    def text(self, *names: str) -> str | None:
        """A non-empty string; an integer is converted to its digits."""
        for value in self._values(names):
            if isinstance(value, str) and value:
                return value
            if isinstance(value, int) and not isinstance(value, bool):
                return str(value)
        return None

    def number(self, *names: str) -> Decimal | None:
        """A finite number with all its digits, from a JSON number or a string."""
        return _first(map(_decimal, self._values(names)))

    def integer(self, *names: str) -> int | None:
        """An integer, from a JSON number or a string."""
        number = self.number(*names)
        return None if number is None or number % 1 else int(number)

    def time(self, *names: str) -> datetime | None:
        """An aware UTC time, from ISO 8601 (UTC if it has no offset) or Unix (milli)seconds."""
        return _first(map(_time, self._values(names)))

    def phone(self, *names: str) -> str | None:
        """A phone number, in E.164 if it is unambiguous, else unchanged."""
        text = self.text(*names)
        return None if text is None else normalise_phone(text)

    def record(self, *names: str) -> Fields:
        """A nested object; an empty one if there is none."""
        return Fields(_first(v for v in self._values(names) if isinstance(v, Mapping)))

    def items(self, *names: str) -> list[object] | None:
        """A nested list."""
        return _first(v for v in self._values(names) if isinstance(v, list))

    def _values(self, names: tuple[str, ...]) -> Iterator[object]:
        return (self.raw[name] for name in names if name in self.raw)


def required(value: T | None, name: str) -> T:
    """Return the value of a required field.

    Raises:
        MissingFieldError: the value is None.
    """
    if value is None:
        raise MissingFieldError(f"no usable {name}")
    return value


def normalise_phone(text: str) -> str:
    """Return E.164 if ``text`` is clearly an international number, else ``text``."""
    compact = _SEPARATORS.sub("", text)
    match = _INTERNATIONAL.fullmatch(compact) or _DIGITS_ONLY.fullmatch(compact)
    return f"+{match[1]}" if match else text


def _first(values: Iterable[T | None]) -> T | None:
    return next((value for value in values if value is not None), None)


def _decimal(value: object) -> Decimal | None:
    if isinstance(value, bool) or not isinstance(value, str | int | Decimal):
        return None
    try:
        number = Decimal(value)
    except InvalidOperation:
        return None
    # A hostile exponent would be formatted as a gigabyte of zeros.
    return number if number.is_finite() and abs(number.adjusted()) <= _MAX_DIGITS else None


def _time(value: object) -> datetime | None:
    number = _decimal(value)
    try:
        if number is not None:
            seconds = number / 1000 if abs(number) >= _MIN_MILLISECONDS else number
            return datetime.fromtimestamp(float(seconds), UTC)
        parsed = datetime.fromisoformat(value) if isinstance(value, str) else None
        if parsed is None:
            return None
        return parsed.replace(tzinfo=UTC) if parsed.tzinfo is None else parsed.astimezone(UTC)
    except (ValueError, OverflowError, OSError):
        return None
