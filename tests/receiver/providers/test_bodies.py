"""Webhook bodies in every spelling: one event, however it is wrapped, encoded and written."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from receiver.errors import MalformedPayload
from receiver.events import OrderSwapped, SmsReceived, UnknownEvent
from receiver.providers.payload import fields_of, parse_body
from receiver.providers.registry import registry

BODIES = json.loads((Path(__file__).parents[2] / "samples" / "bodies.json").read_text("utf-8"))
DATA = {
    "order_id": "90310001",
    "phone_number": "+447700900123",
    "service": "telegram",
    "country": "GB",
    "code": "483921",
    "full_text": "Your code is 483921",
    "received_at": "2026-11-29T10:00:00Z",
}


def read(payload: Mapping[str, Any], provider: str = "virtualsms") -> SmsReceived:
    """The message that a payload reports."""
    event = registry()[provider].read(payload)
    assert isinstance(event, SmsReceived)
    return event


@pytest.mark.parametrize("body", BODIES, ids=lambda body: body["name"])
def test_the_code_of_every_body_is_read(body: dict[str, Any]) -> None:
    """Bodies as they were seen: none is refused, and each code is the one that was sent."""
    assert read(body["body"], body["provider"]).code in body["codes"]


EXPECTED = read({"type": "order.sms_received", "data": DATA})
# Each changes how a payload is written, and not what it says.
Change = Callable[[dict[str, Any], dict[str, Any]], tuple[dict[str, Any], dict[str, Any]]]
INVISIBLE = "\u200b\u200e\ufeff"


def _camel(name: str) -> str:
    head, *rest = name.split("_")
    return head + "".join(map(str.title, rest))


ENVELOPES: dict[str, Callable[[str, dict[str, Any]], Any]] = {
    "data": lambda name, data: {"type": name, "data": data},
    "flat": lambda name, data: {"event": name, **data},
    "payload": lambda name, data: {"event": name, "payload": data},
    "order": lambda name, data: {"type": name, "order": data},
    "object": lambda name, data: {"type": name, "object": data},
    "deeper": lambda name, data: {"type": name, "data": {"object": data}},
    "text": lambda name, data: {"type": name, "data": json.dumps(data)},
    "text of text": lambda name, data: {"type": name, "data": json.dumps(json.dumps(data))},
    "list": lambda name, data: {"type": name, "data": [data]},
    "wrapped whole": lambda name, data: {"payload": {"type": name, "data": data}},
    "sms": lambda name, data: {
        "type": name,
        "data": {**{k: v for k, v in data.items() if k != "full_text"},
                 "sms": {"text": data["full_text"]}},
    },
    "messages": lambda name, data: {
        "type": name,
        "data": {**{k: v for k, v in data.items() if k != "full_text"},
                 "messages": [{"text": data["full_text"]}]},
    },
}  # fmt: skip
FIELDS: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "as they are": lambda data: data,
    "camel case": lambda data: {_camel(name): value for name, value in data.items()},
    "numbers": lambda data: {**data, "order_id": 90310001, "phone_number": 447700900123},
    "code as number": lambda data: {**data, "code": 483921},
    "no code": lambda data: {**data, "code": None},
    "blank code": lambda data: {**data, "code": " "},
    "null as text": lambda data: {**data, "code": "null"},
    "line ends": lambda data: {
        name: f"{value}\r\n" if isinstance(value, str) else value for name, value in data.items()
    },
    "invisible": lambda data: {
        **data, "code": f"{INVISIBLE}483{INVISIBLE}921", "order_id": "\ufeff90310001",
    },
    "full width": lambda data: {**data, "code": "４８３９２１"},
    "arabic digits": lambda data: {**data, "code": "٤٨٣٩٢١"},
    "lists of one": lambda data: {name: [value] for name, value in data.items()},
    "epoch": lambda data: {**data, "received_at": 1795946400},
    "epoch ms": lambda data: {**data, "received_at": "1795946400000"},
    "rfc 2822": lambda data: {**data, "received_at": "Sun, 29 Nov 2026 10:00:00 +0000"},
    "offset": lambda data: {**data, "received_at": "2026-11-29 12:00:00+0200"},
    "number spelled": lambda data: {**data, "phone_number": "+44 7700 900123"},
    "country object": lambda data: {**data, "country": {"iso": "GB", "name": "United Kingdom"}},
}  # fmt: skip
NAMES = ["order.sms_received", "ORDER.SMS_RECEIVED", "sms_received", "Sms.Received", "sms-received"]


@settings(max_examples=150, deadline=None)
@given(
    envelope=st.sampled_from(sorted(ENVELOPES)),
    changes=st.lists(st.sampled_from(sorted(FIELDS)), max_size=2, unique=True),
    name=st.sampled_from(NAMES),
)
def test_every_spelling_says_the_same(envelope: str, changes: list[str], name: str) -> None:
    """Any envelope, any two changes of the fields, any spelling of the event's name."""
    data = dict(DATA)
    for change in changes:
        try:
            data = FIELDS[change](data)
        except KeyError:  # the names were changed already
            return
    if "full_text" not in data and envelope in {"sms", "messages"}:
        return
    event = read(ENVELOPES[envelope](name, data))
    number = (event.phone_number or "").replace(" ", "").lstrip("+")
    assert (
        replace(event, phone_number=f"+{number}", extracted=False, text=EXPECTED.text) == EXPECTED
    )


def test_leading_zeros_are_taken_from_the_text() -> None:
    """A number has no leading zeros; without a text the code is marked as possibly short."""
    event = read(
        {"type": "sms.received", "data": {**DATA, "code": 1200, "full_text": "Code 001200"}}
    )
    assert (event.code, event.may_lack_zeros) == ("001200", False)
    data = {name: value for name, value in DATA.items() if name != "full_text"}
    event = read({"type": "sms.received", "data": {**data, "code": 1200}})
    assert (event.code, event.may_lack_zeros) == ("1200", True)


def test_an_unsure_text_is_read_without_a_code() -> None:
    """The message is known, its text is kept, and no code is guessed."""
    text = "Your code is 4821 or 9034, whichever you like."
    event = read({"type": "sms.received", "data": {**DATA, "code": None, "full_text": text}})
    assert (event.code, event.text, event.extracted) == (None, text, False)


def test_a_sure_text_gives_the_code() -> None:
    """It is marked as extracted."""
    event = read({"type": "sms.received", "data": {**DATA, "code": ""}})
    assert (event.code, event.extracted) == ("483921", True)


@pytest.mark.parametrize("field", ["swapped_at", "new_number_at", "received_at", "created_at"])
def test_every_time_of_a_swap_is_read(field: str) -> None:
    """A late retry of an older swap must not bring the older number back."""
    data = {"order_id": "o", "new_phone_number": "+447700900999", field: "2026-11-29T10:00:00Z"}
    event = registry()["virtualsms"].read({"type": "order.swapped", "data": data})
    assert isinstance(event, OrderSwapped)
    assert event.at == EXPECTED.at


def test_a_time_without_a_zone_is_uncertain() -> None:
    """It is kept, and makes nothing late."""
    event = read({"type": "sms.received", "data": {**DATA, "received_at": "2026-11-29 10:00:00"}})
    assert (event.at, event.at_certain) == (EXPECTED.at, False)


@pytest.mark.parametrize("flag", [True, "true", "TRUE", 1, "1", "yes"])
@pytest.mark.parametrize("wrap", [lambda data: data, lambda data: {"object": data}])
def test_a_test_event_is_never_a_code(flag: object, wrap: Callable[[object], object]) -> None:
    """In every spelling and at every depth."""
    payload = {"type": "sms.received", "data": wrap({**DATA, "test": flag})}
    assert isinstance(registry()["virtualsms"].read(payload), UnknownEvent)


def test_the_documented_sample_of_daisysim_is_a_test() -> None:
    """The API page's own values; another code for the same activation is none."""
    sample = {"event": "code.received", "activation_id": "123456789",
              "phone_number": "+79001234567",
              "service": "WhatsApp", "code": "483921"}  # fmt: skip
    assert registry()["daisysim"].is_test(sample)
    assert not registry()["daisysim"].is_test({**sample, "code": "483922"})


OBJECT = b'{"type": "sms.received", "data": {"order_id": "1", "code": "2"}}'


@pytest.mark.parametrize(
    "body",
    [
        b"\xef\xbb\xbf" + OBJECT,
        OBJECT.replace(b'"2"', b'"2\n"'),
        b"[" + OBJECT + b"]",
        json.dumps(OBJECT.decode()).encode(),
        OBJECT.replace(b'"2"', b'"2", "note": "caf\xe9"'),
        OBJECT.replace(b'"2"', b'"2", "balance": NaN'),
        OBJECT.replace(b'"2"', b'"2", "code": "2"'),
        b"type=sms.received&order_id=1&code=2",
    ],
)
def test_a_plain_meaning_is_read(body: bytes) -> None:
    """Whatever is no strict JSON, but could mean only one thing."""
    fields = fields_of(parse_body(body))
    assert (fields["type"], fields["order_id"], fields["code"].strip()) == (
        "sms.received",
        "1",
        "2",
    )


@pytest.mark.parametrize(
    "body",
    [
        *(b"", b"null", b"[]", b"1", b'"text"', b"{", b"\xff\xfe", b"a=b&a=c", b"<xml/>"),
        OBJECT.replace(b'"2"', b'"2", "code": "3"'),
        b'{"a":' * 100 + b"1" + b"}" * 100,
        b'{"a": ' + b"1" * 100 + b"}",
    ],
)
def test_what_could_mean_two_things_is_malformed(body: bytes) -> None:
    """The event waits for a person; the error quotes nothing."""
    with pytest.raises(MalformedPayload):
        parse_body(body)
