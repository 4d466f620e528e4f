"""Answers 200 to every request at once: a destination, and the load generator's own limit.

``GET /told`` answers when each order was first named in a message, by the order's number and in
the seconds of ``time.perf_counter``, and forgets it.
"""

import asyncio
import json
import re
import sys
import time
from typing import cast

import uvloop

_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n\r\n"
_ANSWER = _HEAD % 2 + b"ok"
_LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)
_ORDER = re.compile(rb"order-(\d{10})")
# Where the load generator sends to when its own limit is looked for: those are no messages.
_LOAD = b"POST /webhooks/"
_ASKED = b"GET /told "

_heard: dict[int, float] = {}


class Sink(asyncio.Protocol):
    """One connection; a request is complete with the length that its header announces."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's are none by descent
        self._buffer = b""

    def data_received(self, data: bytes) -> None:
        """Answer each request that is whole."""
        now = time.perf_counter()
        self._buffer += data
        while (end := self._buffer.find(b"\r\n\r\n")) >= 0:
            length = _LENGTH.search(self._buffer, 0, end)
            whole = end + 4 + (int(length[1]) if length else 0)
            if len(self._buffer) < whole:
                return
            request, self._buffer = self._buffer[:whole], self._buffer[whole:]
            self._transport.write(_answer(request, now))


def _answer(request: bytes, now: float) -> bytes:
    if request.startswith(_LOAD):
        return _ANSWER
    if request.startswith(_ASKED):
        heard = json.dumps(_heard).encode()
        _heard.clear()
        return _HEAD % len(heard) + heard
    for order in _ORDER.findall(request):
        _heard.setdefault(int(order), now)
    return _ANSWER


async def serve(port: int) -> None:
    """Listen until killed."""
    server = await asyncio.get_running_loop().create_server(Sink, "127.0.0.1", port, backlog=512)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1])))
