"""Rejected requests get a problem document, never a redirect or a 500."""

from __future__ import annotations

import gzip

import pytest
from sqlalchemy import text

from receiver.database import engine, sqlite
from receiver.inbox.group_commit import GroupCommit
from receiver.web import body as web_body
from receiver.web import endpoints
from tests.receiver.conftest import Log
from tests.receiver.database.locks import inbox_locked
from tests.receiver.web.conftest import Receiver, Start
from tests.receiver.web.raw import drip, request_of
from tests.support import webhooks
from tests.support.waiting import eventually
from tests.support.webhooks import Webhook

LIMIT = 64 * 1024
GOOD = webhooks.virtualsms_v1()
NAME = "X-VirtualSMS-Signature"
FLAT = "X-Signature"
RIGHT = GOOD.headers[NAME]


@pytest.mark.parametrize(
    "webhook",
    [
        GOOD.with_headers(X_VirtualSMS_Signature=None),
        GOOD.with_headers(X_VirtualSMS_Signature=""),
        GOOD.with_headers(X_VirtualSMS_Signature="é" * 64),
        GOOD.with_headers(X_VirtualSMS_Signature=f"{RIGHT}, {RIGHT}"),
        GOOD.with_headers(X_VirtualSMS_Signature="0" * 64, X_Signature=RIGHT),
        GOOD.with_body(GOOD.body + b" "),
        webhooks.daisysim(token=None),
        webhooks.daisysim(token="%FF%00%C3%28"),
        webhooks.daisysim(token_in="header", token="wrong"),
        webhooks.daisysim().with_headers(X_Codecatch_Token=webhooks.TOKEN),
    ],
)
def test_an_unauthentic_request_is_401_without_a_reason(
    receiver: Receiver, webhook: Webhook
) -> None:
    """The response is always the same, and nothing is stored."""
    answer = receiver.send(webhook)
    assert answer.problem(401) == "the request could not be authenticated"
    assert receiver.events() == []


@pytest.mark.parametrize("name", [NAME, FLAT])
def test_a_repeated_signature_header_is_401(receiver: Receiver, name: str) -> None:
    """A valid signature does not count beside another one in a header of the same name."""
    unsigned = GOOD.with_headers(X_VirtualSMS_Signature=None)
    for second in (RIGHT, "", "0" * 64):
        sent = request_of(unsigned, f"{name}: {RIGHT}", f"{name}: {second}", ends="close")
        assert receiver.raw(sent).startswith(b"HTTP/1.1 401 ")


def test_another_path_is_404(receiver: Receiver) -> None:
    """A similar path is 404 and never a redirect, which would turn a POST into a GET."""
    for path in (
        *("/", "/webhooks", "/webhooks/", "/webhooks/virtualsms/token", "/webhooks/VirtualSMS"),
        *("/webhooks/virtual/sms", "/webhooks%2F%2Fvirtualsms/..", "/webhooks/unknown"),
        *(f"/webhooks/daisysim/{webhooks.TOKEN}/more", "/healthz/", "/metrics", "/docs"),
    ):
        for method in ("GET", "POST"):
            answer = receiver.ask(method, path, GOOD.body, GOOD.headers)
            assert answer.problem(404) == "no such path", path
            assert "location" not in answer.headers


@pytest.mark.parametrize("path", [GOOD.path, "/webhooks/daisysim", webhooks.daisysim().path])
def test_another_method_is_405(receiver: Receiver, path: str) -> None:
    """``Allow`` names those that webhook paths support."""
    for method in ("OPTIONS", "PUT", "DELETE", "PATCH", "TRACE"):
        answer = receiver.ask(method, path)
        assert answer.problem(405) == "this path does not support the method"
        assert set(answer.headers["allow"].split(", ")) == {"POST", "GET", "HEAD"}


def test_health_and_readiness_are_read_only(receiver: Receiver) -> None:
    """They support GET and HEAD only."""
    for path in ("/healthz", "/readyz"):
        for method in ("POST", "PUT", "OPTIONS"):
            answer = receiver.ask(method, path)
            answer.problem(405)
            assert set(answer.headers["allow"].split(", ")) == {"GET", "HEAD"}


def test_the_largest_body_is_accepted(receiver: Receiver) -> None:
    """Exactly 64 KiB are within the limit."""
    body = b'{"a":"' + b"x" * (LIMIT - 8) + b'"}'
    assert len(body) == LIMIT
    assert receiver.send(webhooks.signed(body)).status == 202


def test_a_too_large_content_length_is_413_at_once(receiver: Receiver) -> None:
    """The response comes before the body, and the connection is closed."""
    for length in (LIMIT + 1, 10 * 1024 * 1024, 10**18):
        head = f"POST {GOOD.path} HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n"
        received = receiver.raw(head.encode())
        assert received.startswith(b"HTTP/1.1 413 ")
        assert b"application/problem+json" in received
        assert b"connection: close" in received.lower()


def test_a_too_large_chunked_body_is_413(receiver: Receiver) -> None:
    """Without a length the limit applies to the received bytes."""
    head = f"POST {GOOD.path} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    chunk = b"1000\r\n" + b"x" * 4096 + b"\r\n"
    received = receiver.raw(head.encode(), *[chunk] * 16, b"1\r\nx\r\n")
    assert received.startswith(b"HTTP/1.1 413 ")
    assert b"connection: close" in received.lower()


def test_an_encoded_body_is_415(receiver: Receiver) -> None:
    """It is not decompressed; each header counts."""
    body = gzip.compress(b"x" * 1_000_000)
    for encoding in ("gzip", "br", "deflate, gzip", "IDENTITY, gzip", "x"):
        answer = receiver.send(webhooks.signed(body).with_headers(Content_Encoding=encoding))
        assert "content encoding" in answer.problem(415)
        assert answer.headers["connection"] == "close"
    twice = GOOD.with_headers(Content_Encoding="identity")
    assert receiver.raw(request_of(twice, "Content-Encoding: gzip")).startswith(b"HTTP/1.1 415 ")


@pytest.mark.parametrize("sent", [b"", b'{"half":'])
@pytest.mark.parametrize("drop", [b"", b" "], ids=["silent", "dripping"])
def test_a_slow_body_is_408(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch, sent: bytes, drop: bytes
) -> None:
    """The deadline applies to the whole body, not to each byte; the connection is closed."""
    monkeypatch.setattr(web_body, "DEADLINE_SECONDS", 0.2)
    head = f"POST {GOOD.path} HTTP/1.1\r\nHost: x\r\nContent-Length: 60000\r\n\r\n"
    with receiver.connect() as connection:
        connection.sendall(head.encode() + sent)
        received, _ = drip(connection, iter([drop] * 200))
    assert received.startswith(b"HTTP/1.1 408 ")
    assert b"connection: close" in received.lower()


def test_a_client_that_disconnects_is_logged(receiver: Receiver, log: Log) -> None:
    """Half a body and a closed connection leave one log line and no event."""
    head = f"POST {GOOD.path} HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nhalf"
    with receiver.connect() as connection:
        connection.sendall(head.encode())
    (line,) = eventually(lambda: log.of("request.answered"))
    assert (line["status"], line["reason"]) == (
        408,
        "the client disconnected before the body was complete",
    )
    assert receiver.events() == []
    assert not log.of("request.failed")


@pytest.mark.parametrize(
    ("variable", "webhook"),
    [("VIRTUALSMS_WEBHOOK_SECRETS", GOOD), ("DAISYSIM_WEBHOOK_TOKENS", webhooks.daisysim())],
)
@pytest.mark.parametrize("value", ["", " , "])
def test_a_provider_without_a_secret_is_503(
    start: Start, variable: str, webhook: Webhook, value: str, log: Log
) -> None:
    """Nothing is accepted without verification; the log names the empty variable."""
    receiver = start(**{variable: value})
    answer = receiver.send(webhook)
    assert answer.problem(503) == "this provider's webhooks cannot be verified yet"
    assert int(answer.headers["retry-after"]) > 0
    (line,) = eventually(lambda: log.of("request.answered"))
    assert line["reason"] == f"{variable} is empty"
    assert log.of("provider.not_configured")
    assert receiver.events() == []


def test_a_locked_database_is_503(
    store_url: str, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An event that is not stored gets 503 with Retry-After; the next attempt is accepted."""
    monkeypatch.setattr(sqlite, "BUSY_SECONDS", 0.1)
    options = engine.POSTGRESQL_OPTIONS.replace("lock_timeout=2s", "lock_timeout=100ms")
    monkeypatch.setattr(engine, "POSTGRESQL_OPTIONS", options)
    receiver = start(store_url)
    with inbox_locked(store_url):
        answer = receiver.send(GOOD)
    assert answer.problem(503) == "the database did not take the event"
    assert int(answer.headers["retry-after"]) > 0
    assert receiver.send(GOOD).status == 202


def test_a_missing_table_is_503(store_url: str, start: Start) -> None:
    """Nothing is accepted, and the response has no database error."""
    receiver = start(store_url)
    with receiver.store.database.transaction() as session:
        session.execute(text("ALTER TABLE inbox_events RENAME TO elsewhere"))
    answer = receiver.send(GOOD)
    assert answer.problem(503) == "the database did not take the event"
    assert "retry-after" in answer.headers


def test_a_hanging_database_is_503_at_the_deadline(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The event may be written later; a repetition is then a duplicate."""
    monkeypatch.setattr(endpoints, "DEADLINE_SECONDS", 0.3)
    with inbox_locked(receiver.store.url):
        answer = receiver.send(GOOD)
        assert answer.problem(503) == "the event could not be stored in time"
        assert "retry-after" in answer.headers
    eventually(lambda: len(receiver.events()) == 1)
    assert receiver.send(GOOD).json()["status"] == "duplicate"


def test_an_unexpected_exception_is_503(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch, log: Log
) -> None:
    """The response has no detail of the exception; the log has the traceback, without secrets."""

    def broken(_: GroupCommit, incoming: object, *__: object) -> None:
        code = webhooks.CODE
        raise RuntimeError(f"{len(code)} {type(incoming).__name__}")

    monkeypatch.setattr(GroupCommit, "submit", broken)
    answer = receiver.send(GOOD)
    assert answer.problem(503) == "the event could not be stored"
    assert "retry-after" in answer.headers
    assert b"RuntimeError" not in answer.body
    (line,) = eventually(lambda: log.of("request.answered"))
    assert (line["route"], line["status"], line["level"]) == ("virtualsms", 503, "warning")
    assert log.of("request.failed")[0]["error"] == "RuntimeError"
    assert webhooks.CODE not in log.text


def test_rejections_are_recorded(receiver: Receiver) -> None:
    """Rejected requests can be listed with their reason, without secrets."""
    receiver.send(GOOD.with_headers(X_VirtualSMS_Signature=None))
    receiver.send(webhooks.daisysim(token="another-token-0123456789"))
    receiver.send(webhooks.daisysim(code="1" * 9_000))
    no_signature = "no signature header: the sender does not sign, or a proxy removes the header"
    eventually(lambda: len(receiver.rejections()) == 3)
    assert sorted((row.provider, row.status, row.reason) for row in receiver.rejections()) == [
        ("daisysim", 401, "the token is not in DAISYSIM_WEBHOOK_TOKENS"),
        ("daisysim", 413, "the body is over 8192 bytes (DAISYSIM_LARGEST_BODY)"),
        ("virtualsms", 401, no_signature),
    ]
