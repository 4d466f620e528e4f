"""Strict and bounded JSON: RFC 8259 objects only.

Python's parser accepts ``NaN``, keeps the last of duplicate names, recurses as deep as the text
is nested, and takes quadratic time for long integers. Parsers that differ here could read one
signed body differently, so all of this is rejected.
"""

from __future__ import annotations

import json
import re
from typing import Any, Never

from receiver.errors import MalformedPayload

MAX_DEPTH = 32
MAX_DIGITS = 64
_STRING_OR_BRACKET = re.compile(rb'"(?:[^"\\]|\\.)*"?|[\[\]{}]', re.DOTALL)
_OPENING = {b"{", b"["}
_CLOSING = {b"}", b"]"}


def parse_object(body: bytes) -> dict[str, Any]:
    """Parse a JSON object in UTF-8.

    Raises:
        MalformedPayload: ``body`` is not JSON, not an object, or over a limit.
    """
    if is_too_deep(body):
        raise MalformedPayload(f"the JSON is nested deeper than {MAX_DEPTH} levels")
    try:
        value = _STRICT.decode(body.decode("utf-8"))
    except (ValueError, RecursionError):
        raise MalformedPayload("the body is not JSON") from None
    if not isinstance(value, dict):
        raise MalformedPayload("the body is not a JSON object")
    return value


def parse_leniently(text: str) -> Any:
    """Parse any JSON value; control characters may stand in strings, ``NaN`` means null.

    A name may be repeated with the same value only, and limits hold as for strict JSON.

    Raises:
        ValueError: ``text`` is not JSON in this sense.
    """
    if is_too_deep(text.encode("utf-8", "surrogatepass")):
        raise ValueError("nested too deeply")
    try:
        return _LENIENT.decode(text.strip())
    except (MalformedPayload, RecursionError):
        raise ValueError("not JSON") from None


def is_too_deep(body: bytes) -> bool:
    """Whether ``body`` is nested deeper than :data:`MAX_DEPTH` levels."""
    # Checked before parsing, because deep nesting exhausts the parser's stack. Strings may hold
    # brackets too, so the exact depth is computed only if there are many brackets.
    if body.count(b"{") + body.count(b"[") <= MAX_DEPTH:
        return False
    depth = 0
    for token in _STRING_OR_BRACKET.finditer(body):
        if token[0] in _OPENING:
            depth += 1
            if depth > MAX_DEPTH:
                return True
        elif token[0] in _CLOSING:
            depth -= 1
    return False


def _reject_constant(name: str) -> Never:
    raise MalformedPayload(f"{name} is not JSON")


def _bounded_int(digits: str) -> int:
    if len(digits) > MAX_DIGITS:
        raise MalformedPayload(f"a number has more than {MAX_DIGITS} digits")
    return int(digits)


def _agreeing_names(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if any(fields[name] != value for name, value in pairs):
        raise MalformedPayload("duplicate name with different values in a JSON object")
    return fields


def _unique_names(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise MalformedPayload("duplicate name in a JSON object")
    return fields


# A module constant, because json.loads makes a new decoder for each call with hooks.
_STRICT = json.JSONDecoder(
    parse_constant=_reject_constant, parse_int=_bounded_int, object_pairs_hook=_unique_names
)
_LENIENT = json.JSONDecoder(
    parse_constant=lambda _: None,
    parse_int=_bounded_int,
    object_pairs_hook=_agreeing_names,
    strict=False,
)
