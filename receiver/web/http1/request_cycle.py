"""One request and its response: uvicorn's cycle, with a shortcut for small complete messages.

Most webhooks arrive with headers and body in one segment, and get a response of a few bytes. A
body that is complete before anybody awaits it is stored in the request's state, and a response
that is complete is sent with one system call. Everything else goes through uvicorn's own code.
"""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any

from starlette.responses import Response
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle

# Key in a request's state: a body that was complete before the application received any of it.
BODY = "body"
CLOSE = (b"connection", b"close")


@dataclass(slots=True)
class CompleteResponse:
    """A response with its whole body.

    ``headers`` has lower-case names and includes the content length and type.
    """

    status: int
    headers: Sequence[tuple[bytes, bytes]]
    body: bytes

    @classmethod
    def from_starlette(cls, response: Response) -> CompleteResponse:
        """Convert a Starlette response that is not a stream."""
        return cls(response.status_code, response.raw_headers, bytes(response.body))

    def encode(self, *extra_headers: tuple[bytes, bytes]) -> bytes:
        """Return the bytes to send, with ``extra_headers`` before its own."""
        lines = [STATUS_LINE[self.status]]
        for name, value in (*extra_headers, *self.headers):
            lines += (name, b": ", value, b"\r\n")
        lines += (b"\r\n", self.body)
        return b"".join(lines)


class RequestCycle(RequestResponseCycle):
    """The request cycle of :class:`receiver.web.http1.protocol.HardenedHttpProtocol`."""

    _receive_called = False
    _response_start: Mapping[str, Any] | None = None

    def on_request_complete(self) -> None:
        """Store the complete body in the state, unless the application has received some of it."""
        if not self._receive_called:
            self.scope["state"][BODY] = bytes(self.body)

    async def receive(self) -> Any:
        """ASGI's ``receive``."""
        self._receive_called = True
        return await super().receive()

    async def send(self, message: MutableMapping[str, Any]) -> None:  # type: ignore[override]
        """ASGI's ``send``; it delays the start of a response until the first part of its body."""
        if message["type"] == "http.response.start" and not self.response_started:
            self._response_start = message
            return
        start, self._response_start = self._response_start, None
        if start is not None:
            if self._is_complete_response(start, message):
                response = CompleteResponse(
                    start["status"], start["headers"], message.get("body", b"")
                )
                self.respond(response)
                return
            await super().send(start)  # type: ignore[arg-type]
        await super().send(message)  # type: ignore[arg-type]

    def _is_complete_response(self, start: Mapping[str, Any], message: Mapping[str, Any]) -> bool:
        """Return whether these two messages are the whole response and can be written now."""
        return (
            not message.get("more_body", False)
            and (b"content-length", b"%d" % len(message.get("body", b""))) in start["headers"]
            and self.scope["method"] != "HEAD"
            and not self.flow.write_paused
        )

    def respond(self, response: CompleteResponse) -> None:
        """Send a response, unless the client has disconnected or has a response already."""
        if self.disconnected or self.response_started:
            return
        extra_headers = self.default_headers
        if CLOSE in response.headers:
            self.keep_alive = False
        elif not self.keep_alive:
            extra_headers = [*extra_headers, CLOSE]
        self.transport.write(response.encode(*extra_headers))
        self.response_started = self.response_complete = True
        self.message_event.set()
        if not self.keep_alive:
            self.transport.close()
        self.on_response()
        self.on_response = _do_nothing  # breaks the reference cycle with the connection


def _do_nothing() -> None:
    """``on_response`` after a response."""
