"""The transport as uvicorn is given it: closed in the door's way, and written to in one go."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

_ANSWER = b"HTTP/1.1 "
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class PoliteTransport:
    """A connection's transport; ``close`` and ``closing`` are its door's.

    The head of an answer waits for its body, so that one call to the system takes both.
    """

    __slots__ = ("_closing", "_head", "_write", "close", "get_extra_info", "pause_reading",
                 "resume_reading")  # fmt: skip

    def __init__(
        self,
        transport: asyncio.Transport,
        close: Callable[[], None],
        closing: Callable[[], bool],
    ) -> None:
        self._write = transport.write
        self._closing = closing
        self._head = b""
        self.close = close
        self.get_extra_info = transport.get_extra_info
        self.pause_reading = transport.pause_reading
        self.resume_reading = transport.resume_reading

    def write(self, data: bytes) -> None:
        """Write an answer's head with its body, and anything else at once."""
        if not self._head and data.startswith(_ANSWER) and data != _CONTINUE:
            self._head = data
        else:
            self._write(self._head + data)
            self._head = b""

    def flush(self) -> None:
        """Write a head that no body has come for."""
        if self._head:
            self._write(self._head)
            self._head = b""

    def is_closing(self) -> bool:
        """Whether the connection is closed, or will be."""
        return self._closing()
