"""Strict JSON, bounded: what RFC 8259 calls an object, and nothing a parser merely tolerates.

Python's parser takes ``NaN``, keeps the last of two equal names, recurses as deep as the text
does, and spends quadratic time on long integers. Two readers that resolve any of these
differently could be made to disagree about one signed body, so all of them are refused.
"""

from __future__ import annotations

import json
from typing import Any, Never

from receiver.errors import MalformedPayload

DEEPEST = 32
MOST_DIGITS = 64


def parse_object(body: bytes) -> dict[str, Any]:
    """The JSON object that ``body`` spells in UTF-8.

    Raises:
        MalformedPayload: it is not JSON, not an object, or over a limit.
    """
    if _nesting(body) > DEEPEST:
        raise MalformedPayload(f"the JSON is nested deeper than {DEEPEST} levels")
    try:
        value = json.loads(
            body.decode("utf-8"),
            parse_constant=_no_constant,
            parse_int=_bounded_int,
            object_pairs_hook=_unique_names,
        )
    except (ValueError, RecursionError):
        raise MalformedPayload("the body is not JSON") from None
    if not isinstance(value, dict):
        raise MalformedPayload("the body is not a JSON object")
    return value


def _nesting(body: bytes) -> int:
    # An upper bound by counting, so that the parser never sees what it could not stand. Text
    # may hold brackets too; only then is the exact depth worth the walk.
    if body.count(b"{") + body.count(b"[") <= DEEPEST:
        return 0
    depth = deepest = 0
    in_text = escaped = False
    for byte in body:
        if in_text:
            if escaped:
                escaped = False
            elif byte == ord("\\"):
                escaped = True
            elif byte == ord('"'):
                in_text = False
        elif byte == ord('"'):
            in_text = True
        elif byte in b"{[":
            depth += 1
            deepest = max(deepest, depth)
        elif byte in b"}]":
            depth -= 1
    return deepest


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
