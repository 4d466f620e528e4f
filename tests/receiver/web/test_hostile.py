"""Hostile bodies and requests for both providers: a corpus of samples, and generated ones.

The name of a file in ``tests/samples/hostile`` starts with the expected status.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from receiver.web import body as web_body
from tests.receiver.conftest import Log
from tests.receiver.web.conftest import UNLIMITED, Receiver, Start, read_all
from tests.receiver.web.raw import answers_in, hostile, read_answer, request_of
from tests.support import webhooks
from tests.support.webhooks import Webhook

SENDERS: dict[str, Callable[[bytes], Webhook]] = {
    "virtualsms": webhooks.signed,
    "daisysim": webhooks.daisysim().with_body,
}
# After these the connection may stay open; after any other it must be closed.
KEEPS_ALIVE = {200, 202, 401, 404, 405}
CLIENT_ERRORS = {400, 401, 404, 405, 408, 413, 415, 429, 431}
# Scales with the examples of the active Hypothesis profile.
few = settings(
    max_examples=max(settings().max_examples * 3 // 10, 10),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@pytest.mark.parametrize("provider", SENDERS)
def test_every_sample_body_gets_its_status(unlimited: Receiver, provider: str, log: Log) -> None:
    """Whatever is authentic is stored, JSON or not; all are fast."""
    wrong = []
    for sample in hostile("bodies", provider):
        began = time.monotonic()
        answer = unlimited.send(SENDERS[provider](sample.path.read_bytes()))
        took = time.monotonic() - began
        if answer.status != sample.status or took > 2:
            wrong.append((sample.path.name, answer.status, took))
        elif answer.status >= 400:
            answer.problem(answer.status)
    assert wrong == []
    assert not log.of("request.failed")


@pytest.mark.parametrize("provider", SENDERS)
def test_every_sample_request_gets_its_status(receiver: Receiver, provider: str, log: Log) -> None:
    """Ambiguous framing is rejected and closes the connection."""
    wrong = []
    for sample in hostile("requests", provider):
        body = json.dumps({"event": "x", "n": sample.path.name}).encode()
        with receiver.connect() as connection:
            connection.sendall(sample.request(SENDERS[provider](body)))
            if sample.status in KEEPS_ALIVE:
                answers = [read_answer(connection)]
            else:
                answers = answers_in(read_all(connection))
        if [answer.status for answer in answers] != [sample.status]:
            wrong.append((sample.path.name, [answer.status for answer in answers]))
        elif sample.status >= 400:
            answers[0].problem(sample.status)
    assert wrong == []
    assert not log.of("request.failed")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=20,
)
NAMES = ("id", "event", "type", "data", "code", "order_id", "activation_id", "received_at", "test")
BODIES = (
    st.binary(max_size=200)
    | JSON.map(lambda value: json.dumps(value).encode())
    | st.dictionaries(st.sampled_from(NAMES), JSON).map(lambda value: json.dumps(value).encode())
)


@few
@given(body=BODIES)
def test_any_body_is_stored(unlimited: Receiver, body: bytes) -> None:
    """An authentic body is never refused for what it says."""
    for sender in SENDERS.values():
        assert unlimited.send(sender(body)).status in {200, 202}


HEADER_BYTES = st.binary(max_size=60).map(
    lambda value: value.replace(b"\r", b"").replace(b"\n", b"")
)
HEADERS = st.lists(
    st.tuples(
        st.sampled_from([b"X", b"Connection", b"Upgrade", b"Expect", b"Host", b"Content-Encoding"])
        | st.sampled_from([b"X-Signature", b"X-VirtualSMS-Timestamp", b"X-Forwarded-For"])
        | st.binary(min_size=1, max_size=12),
        st.sampled_from([b"close", b"upgrade", b"h2c", b"100-continue", b"", b"\xff\xfe", b"1e400"])
        | HEADER_BYTES,
    ),
    max_size=8,
)


@few
@given(headers=HEADERS, provider=st.sampled_from(sorted(SENDERS)))
def test_any_headers_get_one_response(
    unlimited: Receiver, headers: list[tuple[bytes, bytes]], provider: str
) -> None:
    """Arbitrary headers beside the credentials cause exactly one response and no 5xx."""
    lines = b"".join(b"%b: %b\r\n" % header for header in headers)
    whole = request_of(SENDERS[provider](b'{"event":"x"}'), ends="close")
    first, rest = whole.split(b"\r\n", 1)
    answers = answers_in(unlimited.raw(first + b"\r\n" + lines + rest))
    assert len(answers) == 1
    assert answers[0].status in {200, 202} | CLIENT_ERRORS


WORDS = st.sampled_from(
    [
        *(b"\r\n", b"\n", b"\r", b"\r\n\r\n", b" ", b":", b"0\r\n\r\n", b"2\r\n{}\r\n", b"\x00"),
        *(b"POST ", b"GET ", b"/webhooks/virtualsms", b"/healthz", b" HTTP/1.1\r\n"),
        *(b"Content-Length: 2\r\n", b"Transfer-Encoding: chunked\r\n", b"Upgrade: x\r\n"),
        *(b"Connection: upgrade\r\n", b"Connection: close\r\n", b"Expect: 100-continue\r\n"),
        *(b"GET /healthz HTTP/1.1\r\n\r\n", b"{}", b"ffffffff", b"CONNECT x:1 HTTP/1.1\r\n\r\n"),
        request_of(webhooks.signed(b'{"event":"x"}')),
        request_of(webhooks.daisysim()),
    ]
)


@pytest.fixture
def hasty(start: Start, monkeypatch: pytest.MonkeyPatch) -> Receiver:
    """A receiver with short deadlines."""
    monkeypatch.setattr(web_body, "DEADLINE_SECONDS", 0.1)
    return start(options={"timeout_keep_alive": 0.1}, **UNLIMITED)


@few
@given(parts=st.lists(st.lists(WORDS, max_size=6).map(b"".join), min_size=1, max_size=4))
def test_any_framing_is_answered_or_closed(hasty: Receiver, parts: list[bytes]) -> None:
    """Almost valid requests in arbitrary segments get complete responses, then a close."""
    with hasty.connect() as connection:
        try:
            for part in parts:
                connection.sendall(part)
        except (BrokenPipeError, ConnectionResetError):
            pass  # the receiver has closed the connection
        answers = answers_in(read_all(connection))
    assert all(answer.status in {200, 202} | CLIENT_ERRORS for answer in answers)
