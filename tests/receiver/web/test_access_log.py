"""The access log: one line per request, without secrets."""

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


def test_the_line_of_an_accepted_webhook(receiver: Receiver, log: Log) -> None:
    """It has method, route, status, duration and event."""
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


def test_no_secret_is_in_any_line(receiver: Receiver, log: Log) -> None:
    """Tokens, codes, phone numbers and secrets are never logged, whatever the outcome."""
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


def test_successful_health_checks_are_not_logged(receiver: Receiver, log: Log) -> None:
    """Polling does not fill the log; failed requests are logged."""
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


def test_lifespan_messages_are_not_logged(log: Log) -> None:
    """The start of the application passes through without a line."""

    async def inner(_: Scope, __: Receive, send: Send) -> None:
        await send({"type": "lifespan.startup.complete"})

    assert serve(AccessLog(inner), {"type": "lifespan"}) == [{"type": "lifespan.startup.complete"}]
    assert log.text == ""


def test_a_failed_request_is_logged(log: Log) -> None:
    """An exception passes through; the line has the status that the client gets."""

    async def inner(_: Scope, __: Receive, ___: Send) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        serve(AccessLog(inner), {"type": "http", "method": "POST"})
    (line,) = log.of("request.answered")
    assert (line["status"], line["level"]) == (503, "warning")


def test_a_cancelled_request_is_logged(log: Log) -> None:
    """Without a response the status is zero."""

    async def inner(_: Scope, __: Receive, ___: Send) -> None:
        raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        serve(AccessLog(inner), {"type": "http", "method": "POST"})
    (line,) = log.of("request.answered")
    assert (line["status"], line["level"]) == (0, "warning")
