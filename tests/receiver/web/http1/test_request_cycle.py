"""What a request's body and its answer are handed over as, and in how many pieces."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Mapping
from typing import Any, cast

import pytest
from uvicorn.protocols.http.flow_control import FlowControl

from receiver.web.http1.request_cycle import BODY, RequestCycle

JSON = (b"content-type", b"application/json")


class Wire:
    """A transport that remembers what it was given."""

    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.closed = False
        self.pause_reading = self.resume_reading = lambda: None

    def write(self, data: bytes) -> None:
        """Remember it."""
        self.written.append(data)

    def close(self) -> None:
        """Remember that."""
        self.closed = True

    def is_closing(self) -> bool:
        """Whether it was closed."""
        return self.closed


@pytest.fixture
def wire() -> Wire:
    """A connection."""
    return Wire()


def exchange(wire: Wire, method: str = "POST", **more: Any) -> RequestCycle:
    """A request on it that waits for its answer."""
    transport = cast("asyncio.Transport", wire)
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
        on_response=lambda: wire.written.append(b"end"),
        **settings,
    )


def run(story: Coroutine[Any, Any, Any]) -> Any:
    """Run what waits for nothing."""
    return asyncio.run(story)


async def answer(
    given: RequestCycle, *bodies: bytes, headers: tuple[tuple[bytes, bytes], ...] | None = None
) -> None:
    """Answer in so many pieces."""
    length = (b"content-length", b"%d" % sum(map(len, bodies)))
    head: Mapping[str, Any] = {
        "type": "http.response.start",
        "status": 202,
        "headers": list(headers or (length, JSON)),
    }
    await given.send(dict(head))
    for left in range(len(bodies))[::-1]:
        body = bodies[len(bodies) - 1 - left]
        await given.send({"type": "http.response.body", "body": body, "more_body": left > 0})


def test_an_answer_is_one_piece(wire: Wire) -> None:
    """Head and body go out together, with the server's own headers."""
    given = exchange(wire)
    run(answer(given, b"{}"))
    assert wire.written == [
        (
            b"HTTP/1.1 202 Accepted\r\ndate: today\r\ncontent-length: 2\r\n"
            b"content-type: application/json\r\n\r\n{}"
        ),
        b"end",
    ]
    assert given.response_started
    assert given.response_complete


@pytest.mark.parametrize(
    ("bodies", "more", "headers"),
    [
        ((b"{", b"}"), {}, None),
        ((b"{}",), {"keep_alive": False}, None),
        ((b"{}",), {}, ((b"connection", b"close"), (b"content-length", b"2"))),
        ((b"{}",), {}, (JSON, (b"content-length", b"2"))),
    ],
    ids=["in parts", "the last", "one that says close", "in another order"],
)
def test_other_answers_are_whole_as_well(
    wire: Wire, bodies: tuple[bytes, ...], more: Mapping[str, Any], headers: Any
) -> None:
    """They go in more pieces, and a connection that is to end does."""
    given = exchange(wire, **more)
    run(answer(given, *bodies, headers=headers))
    sent = b"".join(wire.written)
    assert sent.endswith(b"\r\n\r\n{}end")
    ends = bool(more) or (headers is not None and b"close" in headers[0])
    assert (b"connection: close" in sent, wire.closed) == (ends, ends)


def test_an_answer_may_have_no_body(wire: Wire) -> None:
    """Nor even say so."""
    given = exchange(wire)

    async def story() -> None:
        headers = [(b"content-length", b"0")]
        await given.send({"type": "http.response.start", "status": 202, "headers": headers})
        await given.send({"type": "http.response.body"})

    run(story())
    assert b"".join(wire.written).endswith(b"content-length: 0\r\n\r\nend")


def test_the_answer_to_head_has_no_body(wire: Wire) -> None:
    """It tells the length of what is not sent."""
    run(answer(exchange(wire, "HEAD"), b"{}"))
    sent = b"".join(wire.written)
    assert b"content-length: 2\r\n" in sent
    assert b"{}" not in sent


def test_who_has_gone_is_sent_nothing(wire: Wire) -> None:
    """Neither a head nor a body."""
    given = exchange(wire)
    given.disconnected = True
    run(answer(given, b"{}"))
    assert wire.written == []


def test_a_length_that_does_not_fit_is_refused(wire: Wire) -> None:
    """The sender would wait for the rest, or take it for the next answer."""
    with pytest.raises(RuntimeError, match="Content-Length"):
        run(answer(exchange(wire), b"{}", headers=((b"content-length", b"3"), JSON)))


def test_a_whole_body_needs_no_waiting(wire: Wire) -> None:
    """It stands beside the request before anybody asks."""
    given = exchange(wire)
    given.body += b"{}"
    given.is_whole()
    assert given.scope["state"] == {BODY: b"{}"}


def test_a_body_that_was_asked_for_comes_in_parts(wire: Wire) -> None:
    """What is left of it when the rest arrives is not taken for the whole."""
    given = exchange(wire)

    async def story() -> tuple[Any, Any]:
        given.body += b"{"
        given.message_event.set()
        first = await given.receive()
        given.body += b"}"
        given.more_body = False
        given.message_event.set()
        given.is_whole()
        return first, await given.receive()

    first, second = run(story())
    assert given.scope["state"] == {}
    assert (first["body"], first["more_body"]) == (b"{", True)
    assert (second["body"], second["more_body"]) == (b"}", False)
