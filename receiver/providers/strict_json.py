"""Strict JSON, bounded: what RFC 8259 calls an object, and nothing a parser merely tolerates.

Python's parser takes ``NaN``, keeps the last of two equal names, recurses as deep as the text
does, and spends quadratic time on long integers. Two readers that resolve any of these
differently could be made to disagree about one signed body, so all of them are refused.
"""

from __future__ import annotations

import json
import re
from typing import Any, Never

from receiver.errors import MalformedPayload

DEEPEST = 32
MOST_DIGITS = 64
_TEXT_OR_BRACKET = re.compile(rb'"(?:[^"\\]|\\.)*"?|[\[\]{}]', re.DOTALL)
_OPENING = {b"{", b"["}
_CLOSING = {b"}", b"]"}


def parse_object(body: bytes) -> dict[str, Any]:
    """The JSON object that ``body`` spells in UTF-8.

    Raises:
        MalformedPayload: it is not JSON, not an object, or over a limit.
    """
    if _too_deep(body):
        raise MalformedPayload(f"the JSON is nested deeper than {DEEPEST} levels")
    try:
        value = _STRICT.decode(body.decode("utf-8"))
    except (ValueError, RecursionError):
        raise MalformedPayload("the body is not JSON") from None
    if not isinstance(value, dict):
        raise MalformedPayload("the body is not a JSON object")
    return value


def _too_deep(body: bytes) -> bool:
    # Counted before the parser sees what it could not stand. Text may hold brackets too; only
    # where there are many of them is the exact depth worth the walk.
    if body.count(b"{") + body.count(b"[") <= DEEPEST:
        return False
    depth = 0
    for token in _TEXT_OR_BRACKET.finditer(body):
        if token[0] in _OPENING:
            depth += 1
            if depth > DEEPEST:
                return True
        elif token[0] in _CLOSING:
            depth -= 1
    return False


def _no_constant(name: str) -> Never:
    raise MalformedPayload(f"{name} is not JSON")


def _bounded_int(digits: str) -> int:
    if len(digits) > MOST_DIGITS:
        raise MalformedPayload(f"a number of more than {MOST_DIGITS} digits")
    return int(digits)


def _unique_names(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise MalformedPayload("the same name twice in one JSON object")
    return fields


# Made once: json.loads makes another for each call that has hooks.
_STRICT = json.JSONDecoder(
    parse_constant=_no_constant, parse_int=_bounded_int, object_pairs_hook=_unique_names
)
