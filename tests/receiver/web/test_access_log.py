"""The access log: what happened, and no secret of a path, a header or a body."""

from __future__ import annotations

import asyncio

import pytest
from starlette.types import Message, Receive, Scope, Send

from receiver.web.access_log import AccessLog
from tests.receiver.conftest import Log
from tests.receiver.web.conftest import Receiver
from tests.support import webhooks
from tests.support.waiting import eventually

SECRETS = (webhooks.TOKEN, webhooks.CODE, webhooks.UK_PHONE, webhooks.US_PHONE, webhooks.SECRET)


def test_a_line_says_how_a_request_ended(receiver: Receiver, log: Log) -> None:
    """Method, route, status, duration and event are there."""
    event = receiver.send(webhooks.virtualsms_v1()).json()["event"]
    (line,) = eventually(lambda: log.of("request.answered"))
    assert line.pop("ms") >= 0
    assert line.pop("timestamp")
    assert line == {
        "event": "request.answered",
        "level": "info",
        "part": "web",
        "method": "POST",
        "route": "virtualsms",
        "status": 202,
        "event_id": event,
    }


def test_a_refusal_is_a_warning_with_its_reason(receiver: Receiver, log: Log) -> None:
    """What the sender is not told, the operator is."""
    receiver.send(webhooks.virtualsms_v1().with_body(b"{}"))
    (line,) = eventually(lambda: log.of("request.answered"))
    assert (line["level"], line["status"]) == ("warning", 401)
    assert line["reason"] == "the signature does not fit the body under any configured secret"


def test_no_secret_is_in_any_line(receiver: Receiver, log: Log) -> None:
    """Token, code, phone number and secret stay out, however a request ends and whoever logs."""
    daisysim = webhooks.daisysim()
    receiver.send(daisysim)
    receiver.send(daisysim)
    receiver.send(daisysim.with_body(b"["))
    receiver.send(webhooks.daisysim(token_in="header"))
    receiver.send(webhooks.virtualsms_v1())
    receiver.send(webhooks.virtualsms_v1().with_body(webhooks.daisysim().body))
    for method in ("GET", "HEAD", "OPTIONS"):
        receiver.ask(method, daisysim.path)
    receiver.ask("POST", f"{daisysim.path}/", daisysim.body)
    receiver.ask("POST", f"/webhooks/virtualsms?token={webhooks.TOKEN}", daisysim.body)
    receiver.raw(f"POST {daisysim.path} HTTP/1.1\r\nBad Header: {webhooks.CODE}\r\n\r\n".encode())
    eventually(lambda: len(log.of("request.answered")) == 11)
    receiver.stop()
    eventually(lambda: not receiver._thread.is_alive())
    assert not [secret for secret in SECRETS if secret in log.text]
    assert "/webhooks" not in log.text


def test_good_news_of_health_is_no_news(receiver: Receiver, log: Log) -> None:
    """A supervisor that asks every second does not fill the log; a wrong question is told."""
    receiver.ask("GET", "/healthz")
    receiver.ask("GET", "/readyz")
    receiver.ask("POST", "/healthz")
    receiver.ask("GET", "/nowhere")
    eventually(lambda: len(log.of("request.answered")) >= 2)
    lines = log.of("request.answered")
    assert [(line["route"], line["status"]) for line in lines] == [("other", 405), ("other", 404)]


def serve(app: AccessLog, scope: Scope) -> list[Message]:
    """Run one request through the middleware alone."""
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        sent.append(message)

    asyncio.run(app(scope, receive, send))
    return sent


def test_what_is_no_request_passes_by(log: Log) -> None:
    """The start and the end of the process are not logged as requests."""

    async def inner(_: Scope, __: Receive, send: Send) -> None:
        await send({"type": "lifespan.startup.complete"})

    assert serve(AccessLog(inner), {"type": "lifespan"}) == [{"type": "lifespan.startup.complete"}]
    assert log.text == ""


def test_a_request_that_breaks_has_its_line(log: Log) -> None:
    """An exception passes through, and the line says what the sender will be told."""

    async def inner(_: Scope, __: Receive, ___: Send) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        serve(AccessLog(inner), {"type": "http", "method": "POST"})
    (line,) = log.of("request.answered")
    assert (line["status"], line["level"]) == (503, "warning")


def test_a_request_that_is_cut_off_has_its_line(log: Log) -> None:
    """Without any answer the status is zero, and nothing is hidden."""

    async def inner(_: Scope, __: Receive, ___: Send) -> None:
        raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        serve(AccessLog(inner), {"type": "http", "method": "POST"})
    (line,) = log.of("request.answered")
    assert (line["status"], line["level"]) == (0, "warning")
