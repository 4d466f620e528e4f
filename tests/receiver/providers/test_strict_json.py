"""Strict JSON: what any two readers would agree on is read, all else is refused."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from receiver.errors import MalformedPayload
from receiver.providers.strict_json import DEEPEST, MOST_DIGITS, parse_object

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
    """An object of that many levels."""
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
def test_what_is_not_json_is_refused(body: bytes) -> None:
    """Broken text in whatever way is one kind of refusal."""
    with pytest.raises(MalformedPayload, match="not JSON"):
        parse_object(body)


@pytest.mark.parametrize("body", [b"[]", b'"text"', b"1", b"null", b"true", b'[{"a":1}]'])
def test_what_is_not_an_object_is_refused(body: bytes) -> None:
    """JSON of another kind is told apart from text that is no JSON."""
    with pytest.raises(MalformedPayload, match="not a JSON object"):
        parse_object(body)


@pytest.mark.parametrize("constant", ["NaN", "Infinity", "-Infinity"])
def test_what_only_python_takes_for_a_number_is_refused(constant: str) -> None:
    """Python's own constants are no JSON."""
    with pytest.raises(MalformedPayload, match=f"{constant} is not JSON"):
        parse_object(f'{{"a": [{constant}]}}'.encode())


@pytest.mark.parametrize(
    "body",
    [b'{"a":1,"a":1}', b'{"b":{"a":1,"a":2}}', b'{"a":1,"\\u0061":2}', b'{"b":[{"":0,"":0}]}'],
)
def test_a_name_that_stands_twice_is_refused(body: bytes) -> None:
    """Two readers could each believe another value, however the name is spelled."""
    with pytest.raises(MalformedPayload, match="same name twice"):
        parse_object(body)


def test_depth_is_bounded() -> None:
    """The deepest allowed level is read and the next one is refused."""
    parse_object(nested(DEEPEST))
    with pytest.raises(MalformedPayload, match="nested deeper"):
        parse_object(nested(DEEPEST + 1))


@pytest.mark.parametrize(
    "body", [b"[" * 100_000, b'{"a":' * 50_000, nested(10_000), b'{"a":"\\"' + b"[" * 60_000]
)
def test_depth_that_would_break_a_parser_is_refused_at_once(body: bytes) -> None:
    """However many levels there are, they are refused, and quickly."""
    started = time.process_time()
    with pytest.raises(MalformedPayload):
        parse_object(body)
    assert time.process_time() - started < 2


@pytest.mark.parametrize("text", ["[" * 500, '\\"' + "{" * 500, "\\\\", "}" * 500 + "[" * 500])
def test_brackets_inside_text_are_no_depth(text: str) -> None:
    """A message may hold as many brackets as it likes."""
    body = f'{{"a":"{text}","b":{"[" * 20}{"]" * 20},"c":"{"[" * 20}"}}'.encode()
    assert parse_object(body) == json.loads(body)


def test_many_flat_brackets_are_no_depth() -> None:
    """Width is not depth."""
    assert len(parse_object(b'{"a":[' + b"[]," * 5_000 + b"1]}")["a"]) == 5_001


def test_numbers_are_bounded() -> None:
    """The longest allowed integer is exact and the next one is refused, sign included."""
    assert parse_object(b'{"a":' + b"9" * MOST_DIGITS + b"}") == {"a": 10**MOST_DIGITS - 1}
    for digits in (b"9" * (MOST_DIGITS + 1), b"-" + b"9" * MOST_DIGITS, b"1" * 10_000):
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
    """What the standard allows is read, odd as it is."""
    assert parse_object(body) == {"a": value}


def test_a_refusal_quotes_nothing() -> None:
    """The text of a refusal holds no part of the body, and no cause that would."""
    with pytest.raises(MalformedPayload) as refused:
        parse_object(b'{"code": 483921, }')
    assert "483921" not in repr(refused.value)
    assert refused.value.__cause__ is None
    assert refused.value.__suppress_context__


@settings(max_examples=40, deadline=None)
@given(st.dictionaries(st.text(max_size=10), JSON_VALUES, max_size=5))
def test_every_object_within_the_limits_is_read(document: dict[str, Any]) -> None:
    """What any JSON writer makes of an object is read back as that object."""
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
    """Any bytes are either an object or refused, and never another exception."""
    try:
        document = parse_object(body)
    except MalformedPayload:
        return
    assert isinstance(document, dict)
