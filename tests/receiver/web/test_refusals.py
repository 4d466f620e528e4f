"""Refusals over real sockets: a clear problem document, never a redirect, never a 500."""

from __future__ import annotations

import gzip

import pytest
from sqlalchemy import text
from sqlmodel import select

from receiver.database import engine, sqlite
from receiver.inbox.group_commit import GroupCommit
from receiver.inbox.rejections import RejectedRequest
from receiver.inbox.store import InboxEvent
from receiver.web import body as web_body
from receiver.web import endpoints
from tests.receiver.conftest import Log
from tests.receiver.database.locks import inbox_locked
from tests.receiver.web.conftest import Receiver, Start
from tests.support import webhooks
from tests.support.waiting import eventually
from tests.support.webhooks import Webhook

LIMIT = 64 * 1024
GOOD = webhooks.virtualsms_v1()
NAME = "X-VirtualSMS-Signature"
RIGHT = GOOD.headers[NAME]


def kept(receiver: Receiver) -> int:
    """How many events are stored."""
    with receiver.store.database.reading() as session:
        return len(session.exec(select(InboxEvent)).all())


def nested(depth: int) -> bytes:
    """An object of that many levels."""
    return b'{"a":' * (depth - 1) + b"{}" + b"}" * (depth - 1)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "the body is not JSON"),
        (b"hello", "the body is not JSON"),
        (b'{"a":1}\x00', "the body is not JSON"),
        (b'{"a":"\xff"}', "the body is not JSON"),
        (b"[]", "the body is not a JSON object"),
        (b'"text"', "the body is not a JSON object"),
        (b'{"a":NaN}', "NaN is not JSON"),
        (b'{"a":-Infinity}', "-Infinity is not JSON"),
        (b'{"a":1,"a":2}', "the same name twice in one JSON object"),
        (nested(33), "the JSON is nested deeper than 32 levels"),
        (b"[" * LIMIT, "the JSON is nested deeper than 32 levels"),
        (b'{"a":' + b"9" * 10_000 + b"}", "a number of more than 64 digits"),
    ],
)
def test_what_is_no_bounded_json_object_is_400(receiver: Receiver, body: bytes, words: str) -> None:
    """Authentic or not, such a body can never be read; both providers' senders are told why."""
    for webhook in (webhooks.signed(body), webhooks.daisysim().with_body(body)):
        assert receiver.send(webhook).problem(400) == words
    assert kept(receiver) == 0


@pytest.mark.parametrize(
    "webhook",
    [
        GOOD.with_headers(X_VirtualSMS_Signature=None),
        GOOD.with_headers(X_VirtualSMS_Signature=""),
        GOOD.with_headers(X_VirtualSMS_Signature="sha256="),
        GOOD.with_headers(X_VirtualSMS_Signature="é" * 64),
        GOOD.with_headers(X_VirtualSMS_Signature=RIGHT[:-1]),
        GOOD.with_headers(X_VirtualSMS_Signature=f"{RIGHT}, {RIGHT}"),
        GOOD.with_headers(X_Signature=RIGHT),
        GOOD.with_body(GOOD.body + b" "),
        webhooks.virtualsms_v1(secret="another"),
        webhooks.virtualsms_v1(secret=""),
        webhooks.daisysim(token=None),
        webhooks.daisysim(token="another-token-0123456789"),
        webhooks.daisysim(token="%FF%00%C3%28"),
        webhooks.daisysim(token_in="header", token="wrong"),
        webhooks.daisysim().with_headers(X_Codecatch_Token=webhooks.TOKEN),
    ],
)
def test_what_is_not_authentic_is_401_and_says_nothing_more(
    receiver: Receiver, webhook: Webhook
) -> None:
    """A forger learns nothing, whatever was wrong, and nothing is stored."""
    answer = receiver.send(webhook)
    assert answer.problem(401) == "the request could not be authenticated"
    assert kept(receiver) == 0


@pytest.mark.parametrize("second", [RIGHT, "", "0" * 64], ids=["right", "empty", "wrong"])
def test_two_signature_headers_are_401(receiver: Receiver, second: str) -> None:
    """Even a right one does not count beside another."""
    head = (
        f"POST {GOOD.path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
        f"{NAME}: {RIGHT}\r\n{NAME}: {second}\r\nContent-Length: {len(GOOD.body)}\r\n\r\n"
    )
    assert receiver.raw(head.encode(), GOOD.body).startswith(b"HTTP/1.1 401 ")


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/webhooks",
        "/webhooks/",
        "/webhooks/virtualsms/",
        "/webhooks/virtualsms/token",
        "/webhooks/VirtualSMS",
        "//webhooks/virtualsms",
        "/webhooks//virtualsms",
        "/webhooks/daisysim/",
        f"/webhooks/daisysim/{webhooks.TOKEN}/",
        f"/webhooks/daisysim/{webhooks.TOKEN}/more",
        "/webhooks/unknown",
        "/healthz/",
        "/metrics",
        "/docs",
    ],
)
def test_paths_are_exact(receiver: Receiver, path: str) -> None:
    """A near miss is 404 and never a redirect, which would turn a POST into a GET."""
    for method in ("GET", "POST"):
        answer = receiver.ask(method, path, GOOD.body, GOOD.headers)
        assert answer.problem(404) == "there is nothing at this path"
        assert "location" not in answer.headers


@pytest.mark.parametrize("path", [GOOD.path, "/webhooks/daisysim", webhooks.daisysim().path])
def test_another_method_is_405_and_told_the_right_one(receiver: Receiver, path: str) -> None:
    """Only POST brings a webhook, and the answer says so."""
    for method in ("OPTIONS", "GET", "PUT", "DELETE", "PATCH", "TRACE"):
        answer = receiver.ask(method, path)
        assert answer.problem(405) == "this path takes another method"
        assert answer.headers["allow"] == "POST"
    head = receiver.ask("HEAD", path)
    assert (head.status, head.headers["allow"], head.body) == (405, "POST", b"")


def test_health_is_asked_and_not_told(receiver: Receiver) -> None:
    """The two questions take GET and HEAD only."""
    for path in ("/healthz", "/readyz"):
        for method in ("POST", "PUT", "OPTIONS"):
            answer = receiver.ask(method, path)
            answer.problem(405)
            assert set(answer.headers["allow"].split(", ")) == {"GET", "HEAD"}


def test_the_largest_body_is_taken(receiver: Receiver) -> None:
    """Exactly 64 KiB are within the limit."""
    body = b'{"a":"' + b"x" * (LIMIT - 8) + b'"}'
    assert len(body) == LIMIT
    assert receiver.send(webhooks.signed(body)).status == 202


@pytest.mark.parametrize("length", [LIMIT + 1, 10 * 1024 * 1024, 10**18])
def test_a_body_that_is_announced_too_large_is_413_before_it_is_sent(
    receiver: Receiver, length: int
) -> None:
    """The sender is told at once, and the connection is closed."""
    head = f"POST {GOOD.path} HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n"
    received = receiver.raw(head.encode())
    assert received.startswith(b"HTTP/1.1 413 ")
    assert b"application/problem+json" in received
    assert b"connection: close" in received.lower()


def test_a_chunked_body_is_413_once_it_is_too_large(receiver: Receiver) -> None:
    """Without an announcement the limit counts what comes, and no more is taken."""
    head = f"POST {GOOD.path} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    chunk = b"1000\r\n" + b"x" * 4096 + b"\r\n"
    received = receiver.raw(head.encode(), *[chunk] * 16, b"1\r\nx\r\n")
    assert received.startswith(b"HTTP/1.1 413 ")
    assert b"connection: close" in received.lower()


@pytest.mark.parametrize("encoding", ["gzip", "br", "deflate, gzip", "IDENTITY, gzip", "x"])
def test_an_encoded_body_is_415_and_not_opened(receiver: Receiver, encoding: str) -> None:
    """A compressed body is refused unread, however small it is or large it would become."""
    body = gzip.compress(b"x" * 1_000_000)
    webhook = webhooks.signed(body).with_headers(Content_Encoding=encoding)
    answer = receiver.send(webhook)
    assert "content encoding" in answer.problem(415)
    assert answer.headers["connection"] == "close"


def test_a_second_encoding_header_counts_too(receiver: Receiver) -> None:
    """Hiding the encoding behind a harmless one does not help."""
    head = (
        f"POST {GOOD.path} HTTP/1.1\r\nHost: x\r\nContent-Encoding: identity\r\n"
        "Content-Encoding: gzip\r\nContent-Length: 2\r\n\r\n{}"
    )
    assert receiver.raw(head.encode()).startswith(b"HTTP/1.1 415 ")


@pytest.mark.parametrize("sent", [b"", b'{"half":'])
def test_a_slow_body_is_408(
    receiver: Receiver, sent: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who announces a body and does not send it is told to go, and the connection is closed."""
    monkeypatch.setattr(web_body, "DEADLINE_SECONDS", 0.2)
    head = f"POST {GOOD.path} HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n"
    received = receiver.raw(head.encode() + sent)
    assert received.startswith(b"HTTP/1.1 408 ")
    assert b"connection: close" in received.lower()


def test_a_body_that_drips_is_408_too(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    """The deadline is for the whole body, not for the next byte of it."""
    monkeypatch.setattr(web_body, "DEADLINE_SECONDS", 0.3)
    head = f"POST {GOOD.path} HTTP/1.1\r\nHost: x\r\nContent-Length: 60000\r\n\r\n"
    with receiver.connect() as connection:
        connection.sendall(head.encode())
        connection.settimeout(0.05)
        for _ in range(1_000):
            try:
                connection.sendall(b" ")
                received = connection.recv(12)
                break
            except TimeoutError:
                continue
    assert received == b"HTTP/1.1 408"


def test_a_sender_that_hangs_up_is_nobodys_trouble(receiver: Receiver, log: Log) -> None:
    """Half a body and a closed connection leave a line in the log, and no event."""
    head = f"POST {GOOD.path} HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nhalf"
    with receiver.connect() as connection:
        connection.sendall(head.encode())
    (line,) = eventually(lambda: log.of("request.answered"))
    assert (line["status"], line["reason"]) == (
        408,
        "the sender hung up before the body was whole",
    )
    assert kept(receiver) == 0
    assert not log.of("request.broke")


@pytest.mark.parametrize(
    ("variable", "webhook"),
    [("VIRTUALSMS_WEBHOOK_SECRETS", GOOD), ("DAISYSIM_WEBHOOK_TOKENS", webhooks.daisysim())],
)
@pytest.mark.parametrize("value", ["", " , "])
def test_a_provider_without_a_secret_is_503_and_the_log_says_why(
    start: Start, variable: str, webhook: Webhook, value: str, log: Log
) -> None:
    """Nothing is accepted that nobody can verify; the sender is asked to come again."""
    receiver = start(**{variable: value})
    answer = receiver.send(webhook)
    assert answer.problem(503) == "this provider's webhooks cannot be verified yet"
    assert int(answer.headers["retry-after"]) > 0
    (line,) = eventually(lambda: log.of("request.answered"))
    assert line["reason"] == f"{variable} is empty"
    assert log.of("provider.not_configured")
    assert kept(receiver) == 0


def test_a_locked_database_is_503_and_asks_to_come_again(
    store_url: str, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What could not be stored is not accepted, and the next attempt is."""
    monkeypatch.setattr(sqlite, "BUSY_SECONDS", 0.1)
    options = engine.POSTGRESQL_OPTIONS.replace("lock_timeout=2s", "lock_timeout=100ms")
    monkeypatch.setattr(engine, "POSTGRESQL_OPTIONS", options)
    receiver = start(store_url)
    with inbox_locked(store_url):
        answer = receiver.send(GOOD)
    assert answer.problem(503) == "the database did not take the event"
    assert int(answer.headers["retry-after"]) > 0
    assert receiver.send(GOOD).status == 202


def test_a_database_that_is_gone_is_503(store_url: str, start: Start) -> None:
    """Without the table nothing is accepted, and no error of the database leaves the house."""
    receiver = start(store_url)
    with receiver.store.database.transaction() as session:
        session.execute(text("ALTER TABLE inbox_events RENAME TO elsewhere"))
    answer = receiver.send(GOOD)
    assert answer.problem(503) == "the database did not take the event"
    assert "retry-after" in answer.headers


def test_a_database_that_does_not_answer_is_503_before_the_sender_gives_up(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the deadline the answer is 503, and what is written later is a duplicate then."""
    monkeypatch.setattr(endpoints, "DEADLINE_SECONDS", 0.3)
    with inbox_locked(receiver.store.url):
        answer = receiver.send(GOOD)
        assert answer.problem(503) == "the event could not be stored in time"
        assert "retry-after" in answer.headers
    eventually(lambda: kept(receiver) == 1)
    assert receiver.send(GOOD).json()["status"] == "duplicate"


def test_our_own_bug_is_503_and_leaks_nothing(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch, log: Log
) -> None:
    """An exception that nobody expected becomes a problem document; the log has the traceback."""

    def broken(_: GroupCommit, incoming: object, *__: object) -> None:
        code = webhooks.CODE
        raise RuntimeError(f"{len(code)} {type(incoming).__name__}")

    monkeypatch.setattr(GroupCommit, "put", broken)
    answer = receiver.send(GOOD)
    assert answer.problem(503) == "the event could not be stored"
    assert "retry-after" in answer.headers
    assert b"RuntimeError" not in answer.body
    (line,) = eventually(lambda: log.of("request.answered"))
    assert (line["route"], line["status"], line["level"]) == ("virtualsms", 503, "warning")
    assert log.of("request.broke")[0]["error"] == "RuntimeError"
    assert webhooks.CODE not in log.text


def test_refusals_are_kept_for_the_operator(receiver: Receiver) -> None:
    """What was refused can be listed, with the true reason and without a secret."""
    receiver.send(GOOD.with_headers(X_VirtualSMS_Signature=None))
    receiver.send(webhooks.daisysim(token="another-token-0123456789"))
    receiver.send(webhooks.signed(b"[]"))

    def listed() -> list[tuple[str, int, str]]:
        with receiver.store.database.reading() as session:
            rows = session.exec(select(RejectedRequest)).all()
        return sorted((row.provider, row.status, row.reason) for row in rows)

    no_signature = "no signature header: the sender signs nothing, or a proxy takes it away"
    assert eventually(lambda: listed() if len(listed()) == 3 else None) == [
        ("daisysim", 401, "the token is not one of DAISYSIM_WEBHOOK_TOKENS"),
        ("virtualsms", 400, "the body is not a JSON object"),
        ("virtualsms", 401, no_signature),
    ]
