"""Tolerant reading of a provider's JSON: each field in a usable form, or None."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from functools import lru_cache
from typing import Final, TypeVar

from receiver.providers.base import MAX_NAME_LENGTH
from receiver.providers.phone_numbers import normal_number
from receiver.providers.times import read_time

T = TypeVar("T")

# Languages write "no time" as a time in the year 1 or 1970; no provider is older than this.
_FIRST_TIME = datetime(2000, 1, 1, tzinfo=UTC)
_MAX_DIGITS = 18
# Blanks and characters without a width, for str.strip().
_BLANKS: Final = (
    " \t\n\r\v\f\x1c\x1d\x1e\x1f\x85\xa0\xad\u061c\u1680\u180e\u2000\u2001\u2002\u2003\u2004"
    "\u2005\u2006\u2007\u2008\u2009\u200a\u200b\u200c\u200d\u200e\u200f\u2028\u2029\u202a\u202b"
    "\u202c\u202d\u202e\u202f\u205f\u2060\u2061\u2062\u2063\u2064\u2066\u2067\u2068\u2069\u3000"
    "\ufeff"
)
# Format characters, variation selectors, the frame of a keycap.
_INVISIBLE: Final = frozenset({"Cf", "Mn", "Me"})
# Names of the object around the answer proper, in order of preference.
_WRAPPERS = ("data", "order", "activation", "result", "response", "payload", "object")
_MAX_WRAPPERS = 3
_FLAGS: Final = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


class MissingFieldError(Exception):
    """A response lacks a required field; the message names the field and holds no value."""


class Fields:
    """One JSON object of a response; any other value counts as an empty object.

    Each method takes the alternative names of a field in order of preference, and returns the
    first value of its type, or None. A name is found in any spelling: ``phone_number`` is also
    ``phoneNumber`` and ``Phone-Number``. A list of one value is that value. Blank text and the
    word "null" are no value. :meth:`rest` returns what no method has returned.
    """

    __slots__ = ("_around", "_nested", "_read", "_spellings", "raw")

    def __init__(self, raw: object = None) -> None:
        raw = sole(raw)
        self.raw: Mapping[str, object] = raw if isinstance(raw, Mapping) else {}
        self._spellings = {_spelling(name): name for name in reversed(list(self.raw))}
        self._read: set[str] = set()
        self._nested: dict[str, Fields | list[Fields]] = {}
        self._around: Fields | None = None

    def has(self, *names: str) -> bool:
        """Whether a field with one of the names has a value."""
        return any(not _is_absent(value) for _, value in self._named(names))

    def text(self, *names: str) -> str | None:
        """Text without blanks at its ends; an integer is converted to its digits."""
        return self._first(names, _text)

    def label(self, *names: str) -> str | None:
        """Like :meth:`text`, printable and short enough for a database index."""
        return self._first(names, _label)

    def code(self, *names: str) -> tuple[str | None, bool]:
        """A code with the separators that it came with, and whether it came as a number.

        A number has lost the zeros that it began with, so any text is preferred to it.
        """
        text = self._first(names, _code)
        if text is not None:
            return text, False
        number = self._first(names, _digits)
        return number, number is not None

    def number(self, *names: str) -> Decimal | None:
        """A finite number with all its digits, from a JSON number or a string."""
        return self._first(names, _decimal)

    def integer(self, *names: str) -> int | None:
        """An integer, from a JSON number or a string."""
        return self._first(names, _integer)

    def flag(self, *names: str) -> bool | None:
        """A truth value, from JSON's or from a word for one."""
        return self._first(names, _flag)

    def time(self, *names: str) -> datetime | None:
        """An aware UTC time in every spelling of ``read_time``; UTC if it has no zone."""
        return self._first(names, _time)

    def phone(self, *names: str) -> str | None:
        """A phone number, in E.164 if it has an international prefix, else as it is written.

        Only the country can tell what digits without a prefix mean.
        """
        text = self._first(names, _phone)
        return normal_number(text) if text and text.startswith(("+", "00")) else text

    def record(self, *names: str) -> Fields:
        """A nested object; an empty one if there is none."""
        for name, value in self._named(names):
            if isinstance(value, Mapping):
                nested = self._nested[name] = Fields(value)
                return nested
        return Fields()

    def records(self, *names: str) -> list[Fields]:
        """Nested objects, in a list or alone; text counts as an object with only ``text``."""
        for name, value in self._named(names, alone=False):
            found = [_as_object(each) for each in (value if isinstance(value, list) else [value])]
            objects = [Fields(each) for each in found if each is not None]
            if objects:
                self._nested[name] = objects
                return objects
        return []

    def items(self, *names: str) -> list[object] | None:
        """A nested list."""
        for name, value in self._named(names, alone=False):
            if isinstance(value, list):
                self._read.add(name)
                return value
        return None

    def rest(self) -> dict[str, object]:
        """The fields that no method has returned, also those of the objects in it and around it."""
        left: dict[str, object] = {} if self._around is None else self._around.rest()
        for name, value in self.raw.items():
            if name in self._read:
                continue
            nested = self._nested.get(name)
            if nested is None:
                left[name] = value
                continue
            many = [nested] if isinstance(nested, Fields) else nested
            kept = [rest for each in many if (rest := each.rest())]
            if kept:
                left[name] = kept[0] if isinstance(nested, Fields) else kept
        return left

    def unwrapped(self, *names: str, depth: int = _MAX_WRAPPERS) -> Fields:
        """The object that holds the fields ``names``: this one, or one that it wraps.

        The first name is the one that tells them apart, if both have some.
        """
        wrapped = self._named(_WRAPPERS)
        name, inner = next(
            ((name, Fields(each)) for name, each in wrapped if isinstance(each, Mapping) and each),
            ("", Fields()),
        )
        if depth == 0 or not inner.raw:
            return self
        found = inner.unwrapped(*names, depth=depth - 1)
        here = self.has(names[0]) or (self.has(*names) and not found.has(*names))
        if here and not found.has(names[0]):
            return self
        self._read |= {name, "success"}  # `success` is about the request
        inner._around = self
        return found

    def _first(self, names: tuple[str, ...], read: Callable[[object], T | None]) -> T | None:
        for name, value in self._named(names):
            if _is_absent(value):
                self._read.add(name)
            elif (found := read(value)) is not None:
                self._read.add(name)
                return found
        return None

    def _named(self, names: tuple[str, ...], *, alone: bool = True) -> Iterator[tuple[str, object]]:
        for wanted in names:
            name = wanted if wanted in self.raw else self._spellings.get(_spelling(wanted))
            if name is not None:
                value = self.raw[name]
                yield name, sole(value) if alone else value


def required(value: T | None, name: str) -> T:
    """Return the value of a required field.

    Raises:
        MissingFieldError: the value is None.
    """
    if value is None:
        raise MissingFieldError(f"no usable {name}")
    return value


def sole(value: object) -> object:
    """Return the value that is alone in a list; any other value as it is."""
    return value[0] if isinstance(value, list) and len(value) == 1 else value


def is_label(text: str) -> bool:
    """Whether ``text`` is printable, and short enough for a database index."""
    return len(text) <= MAX_NAME_LENGTH and text.isprintable()


@lru_cache(maxsize=2_048)
def _spelling(name: str) -> str:
    return name[:80].replace("_", "").replace("-", "").lower()


def _as_object(value: object) -> Mapping[str, object] | None:
    if isinstance(value, Mapping):
        return value
    return {"text": value} if isinstance(value, str) and not _is_absent(value) else None


def _is_absent(value: object) -> bool:
    if isinstance(value, str):
        return value.strip(_BLANKS).lower() in {"", "null"}
    return value is None


def _text(value: object) -> str | None:
    return value.strip(_BLANKS) if isinstance(value, str) else _digits(value)


def _digits(value: object) -> str | None:
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    number = _integer(value) if isinstance(value, Decimal) else None
    return None if number is None else str(number)


def _label(value: object) -> str | None:
    text = _text(value)
    return text if text and is_label(text) else None


def _code(value: object) -> str | None:
    return _plain(value) if isinstance(value, str) else None


def _phone(value: object) -> str | None:
    return _plain(value) if isinstance(value, str) else _digits(value)


def _plain(value: str) -> str | None:
    """A line without invisible characters, with digits of every script in ASCII."""
    if len(value) > MAX_NAME_LENGTH or value.isascii():
        return _label(value)
    shown = (
        character
        for character in unicodedata.normalize("NFKC", value.strip(_BLANKS))
        if unicodedata.category(character) not in _INVISIBLE
    )
    return _label("".join(str(unicodedata.decimal(each, each)) for each in shown))


def _decimal(value: object) -> Decimal | None:
    if isinstance(value, bool) or not isinstance(value, str | int | Decimal):
        return None
    try:
        number = Decimal(value.strip(_BLANKS) if isinstance(value, str) else value)
    except InvalidOperation:
        return None
    # A hostile exponent would be formatted as a gigabyte of zeros.
    return number if number.is_finite() and abs(number.adjusted()) <= _MAX_DIGITS else None


def _integer(value: object) -> int | None:
    number = _decimal(value)
    return None if number is None or number % 1 else int(number)


def _flag(value: object) -> bool | None:
    return _FLAGS.get((_text(value) or "").lower()) if not isinstance(value, bool) else value


def _time(value: object) -> datetime | None:
    number = None if isinstance(value, str) else _decimal(value)
    read = read_time(value) if isinstance(value, str) else number and read_time(float(number))
    return read.at if read and read.at >= _FIRST_TIME else None
