"""Answers 200 to every request at once: a destination, and a target for the generator's limit.

``GET /delivered`` answers with the time of each order's first message, as a map from the order's
number to seconds of ``time.perf_counter``, and clears the map.
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
# The generator sends here when its own limit is measured: these requests are not messages.
_LOAD = b"POST /webhooks/"
_QUERY = b"GET /delivered "

_first_seen: dict[int, float] = {}


class Sink(asyncio.Protocol):
    """One connection; ``Content-Length`` delimits each request."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Set the connection up."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's class is no subclass
        self._buffer = b""

    def data_received(self, data: bytes) -> None:
        """Answer each complete request."""
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
    if request.startswith(_QUERY):
        body = json.dumps(_first_seen).encode()
        _first_seen.clear()
        return _HEAD % len(body) + body
    for order in _ORDER.findall(request):
        _first_seen.setdefault(int(order), now)
    return _ANSWER


async def serve(port: int) -> None:
    """Listen until killed."""
    server = await asyncio.get_running_loop().create_server(Sink, "127.0.0.1", port, backlog=512)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1])))
