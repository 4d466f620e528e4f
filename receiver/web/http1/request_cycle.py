"""One request and its answer: uvicorn's cycle, which hands over in one piece what came in one.

Most webhooks come with head and body in one segment, and are answered by a few bytes. Their body
is put beside the request, where nobody has to wait for it, and their answer is one call to the
system. Whatever is otherwise goes uvicorn's way.
"""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any

from starlette.responses import Response
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle

# Where, in a request's state, a body stands that came before anybody asked for it.
BODY = "body"
CLOSE = (b"connection", b"close")


@dataclass(slots=True)
class Answer:
    """A whole answer; its length and its type are among the headers, whose names are lower-case."""

    status: int
    headers: Sequence[tuple[bytes, bytes]]
    body: bytes

    @classmethod
    def of(cls, response: Response) -> Answer:
        """The same as a response of Starlette's that is no stream."""
        return cls(response.status_code, response.raw_headers, bytes(response.body))

    def written(self, *more: tuple[bytes, bytes]) -> bytes:
        """The answer as it is sent, with ``more`` headers."""
        lines = [STATUS_LINE[self.status]]
        for name, value in (*more, *self.headers):
            lines += (name, b": ", value, b"\r\n")
        lines += (b"\r\n", self.body)
        return b"".join(lines)


class RequestCycle(RequestResponseCycle):
    """What :class:`receiver.web.http1.protocol.HardenedHttpProtocol` makes of each request."""

    _asked = False
    _head: Mapping[str, Any] | None = None

    def is_whole(self) -> None:
        """All of the request is here."""
        if not self._asked:
            self.scope["state"][BODY] = bytes(self.body)

    async def receive(self) -> Any:
        """ASGI's ``receive``."""
        self._asked = True
        return await super().receive()

    async def send(self, message: MutableMapping[str, Any]) -> None:  # type: ignore[override]
        """ASGI's ``send``; the head of an answer waits for its body."""
        if message["type"] == "http.response.start" and not self.response_started:
            self._head = message
            return
        head, self._head = self._head, None
        if head is not None:
            if self._is_plain(head, message):
                self.reply(Answer(head["status"], head["headers"], message.get("body", b"")))
                return
            await super().send(head)  # type: ignore[arg-type]
        await super().send(message)  # type: ignore[arg-type]

    def _is_plain(self, head: Mapping[str, Any], message: Mapping[str, Any]) -> bool:
        """Whether this is all of the answer, and may be written as it is."""
        return (
            not message.get("more_body", False)
            and (b"content-length", b"%d" % len(message.get("body", b""))) in head["headers"]
            and self.scope["method"] != "HEAD"
            and not self.flow.write_paused
        )

    def reply(self, answer: Answer) -> None:
        """Answer, unless the sender has gone or was answered."""
        if self.disconnected or self.response_started:
            return
        more = self.default_headers
        if CLOSE in answer.headers:
            self.keep_alive = False
        elif not self.keep_alive:
            more = [*more, CLOSE]
        self.transport.write(answer.written(*more))
        self.response_started = self.response_complete = True
        self.message_event.set()
        if not self.keep_alive:
            self.transport.close()
        self.on_response()
        self.on_response = _nothing  # it holds the connection, which holds this


def _nothing() -> None:
    """What is left to do after an answer."""
