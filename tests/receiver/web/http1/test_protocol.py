"""Deadlines and limits of a connection, over raw sockets."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack

import psutil
import pytest

from receiver.web import body as web_body
from receiver.web.http1 import protocol
from tests.receiver.conftest import Log
from tests.receiver.web.conftest import Receiver, Start, read_all
from tests.receiver.web.raw import answers_in, drip, read_answer, request_of
from tests.support import webhooks
from tests.support.waiting import eventually

DEADLINE = 0.4
HEALTH = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
POST = f"POST {webhooks.VIRTUALSMS_PATH} HTTP/1.1\r\nHost: x\r\n".encode()
MEGABYTES = 10


@pytest.fixture
def hasty(start: Start, monkeypatch: pytest.MonkeyPatch) -> Receiver:
    """A receiver whose deadlines are short."""
    monkeypatch.setattr(web_body, "DEADLINE_SECONDS", DEADLINE)
    monkeypatch.setattr(protocol, "LINGER_SECONDS", DEADLINE)
    return start(options={"timeout_keep_alive": DEADLINE})


def connections(receiver: Receiver) -> int:
    """Return the number of the receiver's open connections."""
    return len(receiver._server.server_state.connections)


def forever(drop: bytes) -> Iterator[bytes]:
    """Repeat the same bytes for ten seconds of dripping."""
    return iter([drop] * 200)


# Deadlines


@pytest.mark.parametrize("drop", [b"", b"\r\n"], ids=["silence", "line ends"])
def test_a_connection_without_a_request_is_closed(hasty: Receiver, drop: bytes) -> None:
    """Soon after the deadline, without a response; the parser skips line ends."""
    with hasty.connect() as connection:
        received, took = drip(connection, forever(drop))
    assert received == b""
    assert DEADLINE * 0.9 < took < DEADLINE * 5


def test_half_a_header_section_is_408(hasty: Receiver, log: Log) -> None:
    """An incomplete header section gets a problem document and a log line."""
    (answer,) = answers_in(hasty.raw(POST))
    assert answer.problem(408) == "the header section was not complete in time"
    assert answer.headers["connection"] == "close"
    (line,) = eventually(lambda: log.of("request.rejected"))
    assert (line["status"], line["level"]) == (408, "warning")


def test_a_dripping_header_section_is_408(hasty: Receiver) -> None:
    """The deadline applies to the whole section, not to each byte."""
    with hasty.connect() as connection:
        connection.sendall(POST)
        received, took = drip(connection, forever(b"X: x\r\n"))
    assert received.startswith(b"HTTP/1.1 408 ")
    assert took < DEADLINE * 5


def test_a_second_request_has_the_same_deadline(hasty: Receiver) -> None:
    """The deadline restarts after a response, and further bytes do not extend it."""
    with hasty.connect() as connection:
        for _ in range(2):
            time.sleep(DEADLINE / 2)
            connection.sendall(HEALTH)
            assert read_answer(connection).status == 200
        received, took = drip(connection, iter([HEALTH[:-2], *forever(b"X: x\r\n")]))
    assert received.startswith(b"HTTP/1.1 408 ")
    assert DEADLINE * 0.9 < took < DEADLINE * 5


def test_an_idle_connection_is_closed(hasty: Receiver) -> None:
    """A keep-alive connection is closed without a response at the deadline."""
    with hasty.connect() as connection:
        connection.sendall(HEALTH)
        assert read_answer(connection).status == 200
        assert read_all(connection) == b""


def test_an_unread_body_has_a_deadline(hasty: Receiver) -> None:
    """A 404 is sent at once, and the deadline ends the rest of the body."""
    with hasty.connect() as connection:
        connection.sendall(b"POST /nowhere HTTP/1.1\r\nHost: x\r\nContent-Length: 60000\r\n\r\n")
        assert read_answer(connection).status == 404
        received, took = drip(connection, forever(b"x"))
    assert received == b""
    assert took < DEADLINE * 5


def test_a_body_after_its_response_is_skipped(receiver: Receiver) -> None:
    """The connection continues with the next request."""
    with receiver.connect() as connection:
        connection.sendall(b"POST /nowhere HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n")
        assert read_answer(connection).status == 404
        connection.sendall(b"hello" + request_of(webhooks.virtualsms_v1()))
        assert read_answer(connection).status == 202


def test_a_client_that_does_not_read_is_disconnected(hasty: Receiver) -> None:
    """Unread responses are not buffered for long."""
    hasty._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(("127.0.0.1", hasty.port))
        connection.settimeout(0.1)
        sent = 0
        while connections(hasty) or not sent:
            try:
                sent += connection.send(HEALTH)
            except TimeoutError:
                continue
            except ConnectionError:
                break
            time.sleep(0.0005)  # one at a time, or too many requests are pipelined
        eventually(lambda: connections(hasty) == 0, within=5)


def test_many_silent_connections(hasty: Receiver) -> None:
    """Silent and half-finished connections are all closed, and events are accepted."""
    halves = (b"", HEALTH[:20], POST + b"X: x\r\n", POST + b"Content-Length: 9\r\n\r\nhalf")
    with ExitStack() as stack:
        silent = [stack.enter_context(hasty.connect()) for _ in range(300)]
        for number, connection in enumerate(silent):
            connection.sendall(halves[number % len(halves)])
        for _ in range(5):
            assert hasty.send(webhooks.virtualsms_v1()).status == 202
        eventually(lambda: connections(hasty) == 0, within=5)
        said = {read_all(connection)[:12] for connection in silent}
    assert said == {b"", b"HTTP/1.1 408"}


# Limits


@pytest.mark.parametrize(
    "lines",
    [
        [b"X: x\r\n" * 20_000],
        [b"X: " + b"x" * 20_000],
        [b"X: ", *[b"x" * 1_000] * 200],
        [b"x" * 1_000] * 200,
    ],
    ids=["20,000 headers", "one long header", "a header without end", "a name without end"],
)
def test_an_endless_header_section_is_431(receiver: Receiver, lines: list[bytes]) -> None:
    """It is rejected as soon as it is over a limit, and the client can read the response."""
    with receiver.connect() as connection:
        for line in [POST, *lines]:
            connection.sendall(line)
        (answer,) = answers_in(read_all(connection))
    assert "16384 bytes or 100 headers" in answer.problem(431)
    assert answer.headers["connection"] == "close"


def test_the_largest_header_section_is_accepted(receiver: Receiver) -> None:
    """A hundred headers, and nearly 16 KiB, are within the limits."""
    webhook = webhooks.virtualsms_v1()
    missing = 100 - request_of(webhook).split(b"\r\n\r\n")[0].count(b"\r\n")
    most = request_of(webhook, *[f"X-{number}: {'x' * 140}" for number in range(missing)])
    assert len(most) > 13_000
    with receiver.connect() as connection:
        connection.sendall(most)
        assert read_answer(connection).status == 202
        connection.sendall(most.replace(b"Host: x", b"Host: x\r\nX: 101", 1))
        assert answers_in(read_all(connection))[0].status == 431


@pytest.mark.parametrize("framing", ["announced", "chunked", "nowhere"])
def test_ten_megabytes_are_413_in_flat_memory(receiver: Receiver, framing: str) -> None:
    """A client that sends everything before it reads gets the response."""
    size = MEGABYTES * 1024 * 1024
    chunked = POST + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n" % size
    head = {
        "announced": POST + b"Content-Length: %d\r\n\r\n" % size,
        "chunked": chunked,
        "nowhere": chunked.replace(webhooks.VIRTUALSMS_PATH.encode(), b"/nowhere"),
    }[framing]
    memory = psutil.Process(os.getpid()).memory_info
    receiver.send(webhooks.virtualsms_v1())
    before = memory().rss
    for _ in range(3):
        with receiver.connect() as connection:
            connection.sendall(head)
            for _ in range(MEGABYTES * 16):
                connection.sendall(b"x" * 65_536)
            (answer,) = answers_in(read_all(connection))
        assert answer.status == (404 if framing == "nowhere" else 413)
    assert memory().rss - before < size / 2


def test_a_body_in_single_bytes_is_within_the_limits(receiver: Receiver) -> None:
    """The most wasteful framing of the largest body is accepted."""
    text = b'{"a":"' + b"x" * (web_body.MAX_BODY_BYTES - 8) + b'"}'
    webhook = webhooks.signed(text)
    head = request_of(webhook).split(b"Content-Length")[0] + b"Transfer-Encoding: chunked\r\n\r\n"
    with receiver.connect() as connection:
        connection.sendall(head + b"".join(b"1\r\n%c\r\n" % byte for byte in text) + b"0\r\n\r\n")
        assert read_answer(connection).status == 202


@pytest.mark.parametrize(
    "endless",
    [b"1;" + b"x" * 600_000, b"0\r\nX: " + b"x" * 600_000, b"0\r\n" + b"X:x\r\n" * 120_000],
)
def test_chunk_extensions_and_trailers_are_limited(receiver: Receiver, endless: bytes) -> None:
    """Endless framing gets 413."""
    with receiver.connect() as connection:
        connection.sendall(POST + b"Transfer-Encoding: chunked\r\n\r\n" + endless)
        (answer,) = answers_in(read_all(connection))
    assert answer.problem(413) == "the request is too large"


def test_pipelined_requests_are_limited(receiver: Receiver) -> None:
    """Of thousands in one segment a few get responses, in order; then the connection closes."""
    with receiver.connect() as connection:
        connection.sendall(HEALTH * 5_000)
        answers = answers_in(read_all(connection))
    assert [answer.status for answer in answers] == [200] * (protocol.MAX_PIPELINED + 1)
    assert answers[-1].headers["connection"] == "close"


# Framing


@pytest.mark.parametrize(
    "after",
    [
        b"NONSENSE\r\n\r\n",
        POST + b"X: a\nb\r\n\r\n",
        POST + b"X: x\r\n" * 200 + b"\r\n",
        POST + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
    ],
)
def test_a_bad_request_does_not_replace_an_earlier_response(
    receiver: Receiver, after: bytes
) -> None:
    """The valid request before it gets the only response, and its event is stored."""
    with receiver.connect() as connection:
        connection.sendall(request_of(webhooks.virtualsms_v1()) + after)
        answers = answers_in(read_all(connection))
    assert [answer.status for answer in answers] == [202]
    assert len(receiver.events()) == 1


def test_a_malformed_chunk_is_rejected_once(receiver: Receiver, log: Log) -> None:
    """A bad chunk in the middle of a body gets one 400, and the operator sees its reason."""
    with receiver.connect() as connection:
        connection.sendall(POST + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n")
        eventually(lambda: receiver._server.server_state.tasks)
        connection.sendall(b"zz\r\n")
        (answer,) = answers_in(read_all(connection))
    words = "the request is not well-formed HTTP/1.1"
    assert answer.problem(400) == words
    (line,) = eventually(lambda: log.of("request.answered"))
    assert (line["status"], line["reason"]) == (400, words)
    assert [row.reason for row in eventually(receiver.rejections)] == [words]


@pytest.mark.parametrize("together", [True, False])
def test_a_trailer_does_not_count_as_a_header(receiver: Receiver, together: bool) -> None:
    """A signature in a trailer is ignored, whenever it arrives."""
    webhook = webhooks.virtualsms_v1()
    unsigned = webhook.with_headers(X_VirtualSMS_Signature=None)
    head = request_of(unsigned).split(b"Content-Length")[0] + b"Transfer-Encoding: chunked\r\n\r\n"
    body = b"%x\r\n%b\r\n" % (len(webhook.body), webhook.body)
    signature = webhook.headers["X-VirtualSMS-Signature"].encode()
    parts = [head, body, b"0\r\nX-VirtualSMS-Signature: " + signature + b"\r\n\r\n"]
    with receiver.connect() as connection:
        for part in [b"".join(parts)] if together else parts:
            connection.sendall(part)
        assert read_answer(connection).status == 401


@pytest.mark.parametrize("cut", [1, 7, 10_000], ids=["bytes", "pieces", "whole"])
def test_an_upgrade_is_ignored(receiver: Receiver, cut: int) -> None:
    """A request with ``Upgrade`` keeps its body, and the connection stays HTTP/1.1."""
    offers = ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABk")
    with receiver.connect() as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for _ in range(2):
            whole = request_of(webhooks.virtualsms_v1(), *offers)
            for at in range(0, len(whole), cut):
                connection.sendall(whole[at : at + cut])
            assert read_answer(connection).status == 202
        connection.sendall(request_of(webhooks.virtualsms_v1(), *offers) * 3)
        statuses = [200, 200, 202]
        assert sorted(_next(connection, 3)) == statuses
    assert len(receiver.events()) == 3


def _next(connection: socket.socket, count: int) -> list[int]:
    received = b""
    while received.count(b'"event"') < count:
        received += connection.recv(65_536)
    return [answer.status for answer in answers_in(received)]


def test_expect_100_continue(receiver: Receiver) -> None:
    """``100 Continue`` is sent when the body will be read, and not if it is too large."""
    webhook = webhooks.virtualsms_v1()
    head, body = request_of(webhook, "Expect: 100-continue").split(b"\r\n\r\n", 1)
    with receiver.connect() as connection:
        connection.sendall(head + b"\r\n\r\n")
        assert connection.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(body)
        assert read_answer(connection).status == 202
    large = POST + b"Expect: 100-continue\r\nContent-Length: 10485760\r\n\r\n"
    assert receiver.raw(large).startswith(b"HTTP/1.1 413 ")


def test_shutdown_does_not_wait_for_incomplete_requests(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Silent connections and half a request do not delay the shutdown."""
    monkeypatch.setattr(protocol, "LINGER_SECONDS", DEADLINE)
    with receiver.connect() as silent, receiver.connect() as half:
        half.sendall(POST)
        eventually(lambda: connections(receiver) == 2)
        receiver.stop()
        assert read_all(silent) == b""
        assert read_all(half) == b""
        eventually(lambda: not receiver._thread.is_alive(), within=5)
