"""Strict JSON: only what all parsers read alike is accepted."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from receiver.errors import MalformedPayload
from receiver.providers.strict_json import MAX_DEPTH, MAX_DIGITS, parse_object

JSON_VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**60), 10**60)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=12,
)


def nested(depth: int) -> bytes:
    """Return an object nested ``depth`` levels deep."""
    return b'{"a":' * (depth - 1) + b"{}" + b"}" * (depth - 1)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b" ",
        b"{",
        b"}",
        b"{}{}",
        b"{} x",
        b"not json",
        b"{'a': 1}",
        b'{"a": 1,}',
        b'{"a": 01}',
        b'{"a": "\n"}',
        b'{"a": "\\x"}',
        b'{"a": "\xff"}',
        b'{"a": "\xed\xa0\x80"}',
        '{"a": 1}'.encode("utf-16"),
        b"\xef\xbb\xbf{}",
        b"// {}\n{}",
        b"\x00" * 100,
    ],
)
def test_invalid_json_is_rejected(body: bytes) -> None:
    """Every syntax error has the same message."""
    with pytest.raises(MalformedPayload, match="not JSON"):
        parse_object(body)


@pytest.mark.parametrize("body", [b"[]", b'"text"', b"1", b"null", b"true", b'[{"a":1}]'])
def test_json_that_is_not_an_object_is_rejected(body: bytes) -> None:
    """Other JSON values have another message than invalid JSON."""
    with pytest.raises(MalformedPayload, match="not a JSON object"):
        parse_object(body)


@pytest.mark.parametrize("constant", ["NaN", "Infinity", "-Infinity"])
def test_non_finite_constants_are_rejected(constant: str) -> None:
    """Python accepts these constants, JSON does not."""
    with pytest.raises(MalformedPayload, match=f"{constant} is not JSON"):
        parse_object(f'{{"a": [{constant}]}}'.encode())


@pytest.mark.parametrize(
    "body",
    [b'{"a":1,"a":1}', b'{"b":{"a":1,"a":2}}', b'{"a":1,"\\u0061":2}', b'{"b":[{"":0,"":0}]}'],
)
def test_a_duplicate_name_is_rejected(body: bytes) -> None:
    """Parsers could use different values, also if the name is escaped."""
    with pytest.raises(MalformedPayload, match="duplicate name"):
        parse_object(body)


def test_depth_is_limited() -> None:
    """The deepest allowed level is accepted, the next one rejected."""
    parse_object(nested(MAX_DEPTH))
    with pytest.raises(MalformedPayload, match="nested deeper"):
        parse_object(nested(MAX_DEPTH + 1))


@pytest.mark.parametrize(
    "body", [b"[" * 100_000, b'{"a":' * 50_000, nested(10_000), b'{"a":"\\"' + b"[" * 60_000]
)
def test_excessive_depth_is_rejected_quickly(body: bytes) -> None:
    """Any number of levels is rejected within bounded time."""
    started = time.process_time()
    with pytest.raises(MalformedPayload):
        parse_object(body)
    assert time.process_time() - started < 2


@pytest.mark.parametrize("text", ["[" * 500, '\\"' + "{" * 500, "\\\\", "}" * 500 + "[" * 500])
def test_brackets_in_strings_do_not_count(text: str) -> None:
    """A string may hold any number of brackets."""
    body = f'{{"a":"{text}","b":{"[" * 20}{"]" * 20},"c":"{"[" * 20}"}}'.encode()
    assert parse_object(body) == json.loads(body)


def test_many_flat_arrays_are_not_deep() -> None:
    """Only nesting counts as depth."""
    assert len(parse_object(b'{"a":[' + b"[]," * 5_000 + b"1]}")["a"]) == 5_001


def test_numbers_are_limited() -> None:
    """The longest allowed integer is exact; a longer one is rejected, the sign included."""
    assert parse_object(b'{"a":' + b"9" * MAX_DIGITS + b"}") == {"a": 10**MAX_DIGITS - 1}
    for digits in (b"9" * (MAX_DIGITS + 1), b"-" + b"9" * MAX_DIGITS, b"1" * 10_000):
        with pytest.raises(MalformedPayload, match="digits"):
            parse_object(b'{"a":' + digits + b"}")


@pytest.mark.parametrize(
    ("body", "value"),
    [
        (b'{"a":"\\u0000"}', "\x00"),
        (b'{"a":"\\ud800"}', "\ud800"),
        (b'{"a":1e999}', float("inf")),
        ('{"a":"é"}'.encode(), "é"),
        (b' \r\n\t{"a":null} ', None),
    ],
)
def test_odd_but_valid_json_is_read(body: bytes, value: object) -> None:
    """Unusual JSON that the standard allows is accepted."""
    assert parse_object(body) == {"a": value}


def test_an_error_quotes_nothing() -> None:
    """The error and its cause hold no part of the body."""
    with pytest.raises(MalformedPayload) as refused:
        parse_object(b'{"code": 483921, }')
    assert "483921" not in repr(refused.value)
    assert refused.value.__cause__ is None
    assert refused.value.__suppress_context__


@settings(max_examples=40, deadline=None)
@given(st.dictionaries(st.text(max_size=10), JSON_VALUES, max_size=5))
def test_every_object_within_the_limits_is_parsed(document: dict[str, Any]) -> None:
    """Every encoding of an object is parsed to that object."""
    for ascii_only in (True, False):
        text = json.dumps(document, ensure_ascii=ascii_only)
        try:
            body = text.encode()
        except UnicodeEncodeError:
            continue  # half a surrogate pair cannot be written as UTF-8
        assert parse_object(body) == document


@settings(deadline=None)
@given(
    st.binary(max_size=200)
    | st.text("{}[]\":,\\ 0123456789eE+-.nulltrefasNI'", max_size=200).map(str.encode)
)
def test_no_bytes_crash_the_parser(body: bytes) -> None:
    """Any bytes are an object or rejected, without another exception."""
    try:
        document = parse_object(body)
    except MalformedPayload:
        return
    assert isinstance(document, dict)
