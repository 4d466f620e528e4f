"""One request and its answer: uvicorn's cycle, which hands over in one piece what came in one.

Most webhooks come with head and body in one segment, and are answered by a few bytes. Their body
is put beside the request, where nobody has to wait for it, and their answer is one call to the
system. Whatever is otherwise goes uvicorn's way.
"""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle

# Where, in a request's state, a body stands that came before anybody asked for it.
BODY = "body"


class Exchange(RequestResponseCycle):
    """What :class:`receiver.web.protocol.Door` makes of each request."""

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
            body = message.get("body", b"")
            if self._is_plain(head, body, message):
                self._write(head, body)
                return
            await super().send(head)  # type: ignore[arg-type]
        await super().send(message)  # type: ignore[arg-type]

    def _is_plain(self, head: Mapping[str, Any], body: bytes, message: Mapping[str, Any]) -> bool:
        """Whether this is all of the answer, and its two headers are its length and its type."""
        headers = head["headers"]
        return (
            len(headers) == 2
            and headers[0] == (b"content-length", b"%d" % len(body))
            and headers[1][0] == b"content-type"
            and not message.get("more_body", False)
            and self.keep_alive
            and self.scope["method"] != "HEAD"
            and not self.disconnected
            and not self.flow.write_paused
        )

    def _write(self, head: Mapping[str, Any], body: bytes) -> None:
        lines = [STATUS_LINE[head["status"]]]
        for name, value in (*self.default_headers, *head["headers"]):
            lines += (name, b": ", value, b"\r\n")
        lines += (b"\r\n", body)
        self.transport.write(b"".join(lines))
        self.response_started = self.response_complete = True
        self.message_event.set()
        self.on_response()
