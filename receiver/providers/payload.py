"""A webhook's body as fields, however it is wrapped, encoded and spelled.

The rules are general: they know no provider and no event. What is plain is read; what could mean
two things is an error, and the event waits for a person.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final
from urllib.parse import parse_qsl

from receiver.errors import MalformedPayload
from receiver.providers import strict_json

Payload = Mapping[str, Any]
# Objects that hold an event's fields; the inner value of a field wins.
_WRAPPERS: Final = frozenset(
    ("data", "payload", "object", "order", "activation", "body", "attributes", "resource", "sms")
)
# Fields of the envelope: the outer value wins.
_ENVELOPE: Final = frozenset(("type", "event", "event_type", "id"))
_MAX_WRAPPING: Final = 4
_ABSENT: Final = frozenset(("", "null", "none", "nil", "undefined"))
_WORD_START: Final = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|[\s.-]+")
_FORM: Final = re.compile(
    rb"[A-Za-z_][\w.-]{0,63}=[^\s{}&=]{0,4000}(?:&[\w.-]{1,64}=[^\s{}&=]{0,4000}){0,40}"
)


def parse_body(body: bytes) -> Payload:
    """The object in a raw body.

    Strict JSON is tried first, then what is still plain: a byte order mark, Latin-1 bytes, raw
    control characters in texts, ``NaN`` for a missing number, an object that was encoded twice or
    stands alone in a list, and form fields.

    Raises:
        MalformedPayload: there is no object in it, or it could be read in two ways. The message
            says why and quotes nothing.
    """
    try:
        return strict_json.parse_object(body)
    except MalformedPayload as error:
        reason = error
    if strict_json.is_too_deep(body):
        raise reason
    for text in _decodings(body):
        try:
            value = _single(strict_json.parse_leniently(text))
        except ValueError:
            continue
        found = as_mapping(value)
        if found is not None:
            return found
    form = body.strip()
    if _FORM.fullmatch(form):
        pairs = parse_qsl(form.decode("ascii", "replace"), keep_blank_values=True)
        if len(dict(pairs)) == len(pairs):
            return dict(pairs)
    raise reason


def fields_of(payload: Payload) -> dict[str, Any]:
    """All fields on one level, with names in ``snake_case``.

    Wrapped fields are lifted out of ``data``, ``payload``, ``order`` and the like, at most
    :data:`_MAX_WRAPPING` levels deep and encoded as JSON text or not. A list of one value stands
    for the value; of ``messages`` the newest is taken. Absent values (null, empty, blank, "null")
    are left out. An ``id`` inside a wrapper becomes ``inner_id``.
    """
    fields: dict[str, Any] = {}
    _collect(payload, fields, 0)
    return fields


def as_mapping(value: object) -> Payload | None:
    """``value`` as an object: one, the JSON text of one (even twice), or a list of only one."""
    for _ in range(_MAX_WRAPPING):
        value = _single(value)
        if isinstance(value, Mapping):
            return value
        if not isinstance(value, str) or not value.lstrip().startswith(("{", "[", '"')):
            return None
        try:
            value = strict_json.parse_leniently(value)
        except ValueError:
            return None
    return None


def is_absent(value: object) -> bool:
    """Whether a value says that there is none."""
    return value is None or (isinstance(value, str) and value.strip().casefold() in _ABSENT)


def _collect(payload: Payload, into: dict[str, Any], depth: int) -> None:
    wrapped: list[Payload] = []
    for key, given in payload.items():
        name, value = _snake_case(str(key)), _single(given)
        inner = as_mapping(value) if name in _WRAPPERS and depth < _MAX_WRAPPING else None
        if inner is not None:
            wrapped.append(inner)
        elif name == "messages":
            wrapped.extend(_newest(given))
        elif name == "message" and isinstance(value, Mapping):
            wrapped.append(value)
        elif not is_absent(value):
            _put(into, name, value, depth)
    for inner in wrapped:
        _collect(inner, into, depth + 1)


def _put(into: dict[str, Any], name: str, value: object, depth: int) -> None:
    if name == "id" and depth:
        into.setdefault("inner_id", value)
        if "type" in into or "event" in into or "event_type" in into:
            return
    if name not in _ENVELOPE or name not in into:
        into[name] = value


def _newest(messages: object) -> Iterator[Payload]:
    """The newest of a list of messages: the last by its time, or else in the list."""
    if not isinstance(messages, list):
        return
    found = [each if isinstance(each, Mapping) else {"text": each} for each in messages]
    # Of equal times the later one in the list.
    yield from sorted(found, key=_message_time)[-1:]


def _message_time(message: Payload) -> str:
    return str(message.get("received_at") or message.get("created_at") or "")


def _single(value: object) -> object:
    while isinstance(value, list) and len(value) == 1:
        value = value[0]
    return value


def _snake_case(name: str) -> str:
    return _WORD_START.sub("_", name.strip()).lower().strip("_")


def _decodings(body: bytes) -> Iterator[str]:
    try:
        yield body.decode("utf-8-sig")
    except UnicodeDecodeError:
        yield body.decode("latin-1")
