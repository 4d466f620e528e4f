"""The fast path gives the same responses as Starlette."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from receiver.providers.virtualsms import VirtualSMS
from receiver.web.http1.fast_path import FastPath
from tests.receiver.conftest import Log
from tests.receiver.web.conftest import Answer, Receiver, Start
from tests.receiver.web.raw import answers_in, read_answer, request_of
from tests.support import webhooks
from tests.support.waiting import eventually
from tests.support.webhooks import Webhook

GOOD = webhooks.virtualsms_v1()
FORGED = GOOD.with_body(b"{}")
UNSIGNED = GOOD.with_headers(X_VirtualSMS_Signature=None)
ENCODED = GOOD.with_headers(Content_Encoding="gzip")
# Over the limit, but small enough to arrive together with its headers.
LARGE = webhooks.signed(b'{"x": "' + b"x" * 66_000 + b'"}')
Send = Callable[[Receiver, Webhook], Answer]


def send_whole(receiver: Receiver, webhook: Webhook) -> Answer:
    """Send the request in one segment."""
    with receiver.connect() as connection:
        connection.sendall(request_of(webhook))
        return read_answer(connection)


def send_body_late(receiver: Receiver, webhook: Webhook) -> Answer:
    """Send the body only after ``100 Continue``; return the error response if that comes first."""
    head, _, body = request_of(webhook, "Expect: 100-continue").partition(b"\r\n\r\n")
    with receiver.connect() as connection:
        connection.sendall(head + b"\r\n\r\n")
        first = connection.recv(65_536)
        if not first.startswith(b"HTTP/1.1 100 "):
            (refusal,) = answers_in(first)
            return refusal
        connection.sendall(body)
        return read_answer(connection)


@pytest.fixture
def fast_path_requests(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The paths of the requests that took the fast path."""
    served: list[str] = []
    original = FastPath.serve

    def serve(*given: object) -> None:
        served.append(given[1].scope["path"])  # type: ignore[attr-defined]
        original(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(FastPath, "serve", serve)
    return served


@pytest.mark.parametrize("send", [send_whole, send_body_late])
@pytest.mark.parametrize(
    ("webhook", "status"),
    [(GOOD, 202), (FORGED, 401), (UNSIGNED, 401), (ENCODED, 415), (LARGE, 413)],
    ids=["good", "forged", "unsigned", "encoded", "large"],
)
def test_both_paths_give_the_same_result(
    receiver: Receiver, log: Log, send: Send, webhook: Webhook, status: int
) -> None:
    """Status and log line are the same, and a valid event is stored."""
    answer = send(receiver, webhook)
    assert answer.status == status
    (line,) = eventually(lambda: log.of("request.answered"))
    assert (line["method"], line["route"], line["status"]) == ("POST", "virtualsms", status)
    assert line["event_id" if status == 202 else "reason"]
    if status == 202:
        assert send(receiver, webhook).json() == {"status": "duplicate", "event": line["event_id"]}
    else:
        assert answer.problem(status)


def test_which_requests_take_the_fast_path(
    receiver: Receiver, fast_path_requests: list[str]
) -> None:
    """Only a complete POST without a token in its path takes it."""
    assert send_body_late(receiver, GOOD).status == 202
    assert send_whole(receiver, webhooks.daisysim()).status == 202
    assert receiver.ask("GET", GOOD.path).status == 200
    assert fast_path_requests == []
    assert send_whole(receiver, GOOD).status == 200
    assert send_whole(receiver, replace(GOOD, path="//webhooks///virtualsms/")).status == 200
    assert fast_path_requests == [GOOD.path, "//webhooks///virtualsms/"]


def test_no_request_behind_a_proxy_takes_the_fast_path(
    start: Start, fast_path_requests: list[str]
) -> None:
    """The client's address is in a header, which uvicorn's middleware reads."""
    receiver = start(FORWARDED_ALLOW_IPS="127.0.0.1")
    assert send_whole(receiver, GOOD).status == 202
    assert fast_path_requests == []


@pytest.mark.parametrize("send", [send_whole, send_body_late])
def test_an_unexpected_exception_is_503(
    receiver: Receiver, log: Log, monkeypatch: pytest.MonkeyPatch, send: Send
) -> None:
    """The next request is accepted."""

    def broken(*_: object) -> str:
        raise ZeroDivisionError

    with monkeypatch.context() as patch:
        patch.setattr(VirtualSMS, "authenticate", broken)
        assert send(receiver, GOOD).problem(503) == "the event could not be stored"
    assert eventually(lambda: log.of("request.failed"))[0]["error"] == "ZeroDivisionError"
    assert send(receiver, GOOD).status == 202


def test_requests_on_one_connection_are_answered_in_order(receiver: Receiver) -> None:
    """Complete requests and requests in two segments can alternate on a connection."""
    request = request_of(GOOD)
    with receiver.connect() as connection:
        events = []
        for cut in (len(request), 40, len(request), len(request) - 5):
            connection.sendall(request[:cut])
            connection.sendall(request[cut:])
            events.append(read_answer(connection).json()["event"])
    assert len(events) == 4
    assert len(set(events)) == 1
