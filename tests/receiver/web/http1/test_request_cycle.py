"""The request cycle: complete bodies and responses, and those in several parts."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, cast

import pytest
from uvicorn.protocols.http.flow_control import FlowControl

from receiver.web.http1.request_cycle import BODY, RequestCycle

JSON = (b"content-type", b"application/json")


class RecordingTransport:
    """A transport that records its output."""

    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.closed = False
        self.pause_reading = self.resume_reading = lambda: None

    def write(self, data: bytes) -> None:
        """Record the data."""
        self.written.append(data)

    def close(self) -> None:
        """Record the close."""
        self.closed = True

    def is_closing(self) -> bool:
        """Return whether it was closed."""
        return self.closed


@pytest.fixture
def transport() -> RecordingTransport:
    """A connection."""
    return RecordingTransport()


def make_cycle(recording: RecordingTransport, method: str = "POST", **more: Any) -> RequestCycle:
    """Return the cycle of a request that waits for its response."""
    transport = cast("asyncio.Transport", recording)
    settings: dict[str, Any] = {"expect_100_continue": False, "keep_alive": True, **more}
    return RequestCycle(
        scope=cast("Any", {"method": method, "state": {}}),
        transport=transport,
        flow=FlowControl(transport),
        logger=cast("Any", None),
        access_logger=cast("Any", None),
        access_log=False,
        default_headers=[(b"date", b"today")],
        message_event=asyncio.Event(),
        on_response=lambda: recording.written.append(b"end"),
        **settings,
    )


async def respond(
    cycle: RequestCycle, *bodies: bytes, headers: tuple[tuple[bytes, bytes], ...] | None = None
) -> None:
    """Send a response with one ASGI message for each of ``bodies``."""
    length = (b"content-length", b"%d" % sum(map(len, bodies)))
    head: Mapping[str, Any] = {
        "type": "http.response.start",
        "status": 202,
        "headers": list(headers or (length, JSON)),
    }
    await cycle.send(dict(head))
    for left in range(len(bodies))[::-1]:
        body = bodies[len(bodies) - 1 - left]
        await cycle.send({"type": "http.response.body", "body": body, "more_body": left > 0})


def test_a_complete_response_is_one_write(transport: RecordingTransport) -> None:
    """Headers and body are written together, with the server's default headers."""
    cycle = make_cycle(transport)
    asyncio.run(respond(cycle, b"{}"))
    assert transport.written == [
        (
            b"HTTP/1.1 202 Accepted\r\ndate: today\r\ncontent-length: 2\r\n"
            b"content-type: application/json\r\n\r\n{}"
        ),
        b"end",
    ]
    assert cycle.response_started
    assert cycle.response_complete


@pytest.mark.parametrize(
    ("bodies", "more", "headers"),
    [
        ((b"{", b"}"), {}, None),
        ((b"{}",), {"keep_alive": False}, None),
        ((b"{}",), {}, ((b"connection", b"close"), (b"content-length", b"2"))),
        ((b"{}",), {}, (JSON, (b"content-length", b"2"))),
    ],
    ids=["in parts", "no keep-alive", "close header", "other header order"],
)
def test_other_responses_are_complete_too(
    transport: RecordingTransport, bodies: tuple[bytes, ...], more: Mapping[str, Any], headers: Any
) -> None:
    """They may need several writes; ``connection: close`` closes the connection."""
    cycle = make_cycle(transport, **more)
    asyncio.run(respond(cycle, *bodies, headers=headers))
    sent = b"".join(transport.written)
    assert sent.endswith(b"\r\n\r\n{}end")
    ends = bool(more) or (headers is not None and b"close" in headers[0])
    assert (b"connection: close" in sent, transport.closed) == (ends, ends)


def test_a_response_without_a_body(transport: RecordingTransport) -> None:
    """The body message may have no ``body`` key."""
    cycle = make_cycle(transport)

    async def scenario() -> None:
        headers = [(b"content-length", b"0")]
        await cycle.send({"type": "http.response.start", "status": 202, "headers": headers})
        await cycle.send({"type": "http.response.body"})

    asyncio.run(scenario())
    assert b"".join(transport.written).endswith(b"content-length: 0\r\n\r\nend")


def test_responses_without_their_body(transport: RecordingTransport) -> None:
    """HEAD gets the length of the body; a disconnected client gets nothing."""
    asyncio.run(respond(make_cycle(transport, "HEAD"), b"{}"))
    sent = b"".join(transport.written)
    assert b"content-length: 2\r\n" in sent
    assert b"{}" not in sent
    transport.written.clear()
    cycle = make_cycle(transport)
    cycle.disconnected = True
    asyncio.run(respond(cycle, b"{}"))
    assert transport.written == []


def test_a_wrong_content_length_is_an_error(transport: RecordingTransport) -> None:
    """The client would wait for the rest, or take it for the next response."""
    with pytest.raises(RuntimeError, match="Content-Length"):
        asyncio.run(
            respond(make_cycle(transport), b"{}", headers=((b"content-length", b"3"), JSON))
        )


def test_a_complete_body_is_in_the_state(transport: RecordingTransport) -> None:
    """It is stored before the application receives anything."""
    cycle = make_cycle(transport)
    cycle.body += b"{}"
    cycle.on_request_complete()
    assert cycle.scope["state"] == {BODY: b"{}"}


def test_a_partly_received_body_is_not_in_the_state(transport: RecordingTransport) -> None:
    """The rest of a body is not mistaken for the complete body."""
    cycle = make_cycle(transport)

    async def scenario() -> tuple[Any, Any]:
        cycle.body += b"{"
        cycle.message_event.set()
        first = await cycle.receive()
        cycle.body += b"}"
        cycle.more_body = False
        cycle.message_event.set()
        cycle.on_request_complete()
        return first, await cycle.receive()

    first, second = asyncio.run(scenario())
    assert cycle.scope["state"] == {}
    assert (first["body"], first["more_body"]) == (b"{", True)
    assert (second["body"], second["more_body"]) == (b"}", False)
