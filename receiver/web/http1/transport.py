"""A transport wrapper that lets the protocol decide how to close the connection."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class LingeringTransport:
    """Passes everything to the real transport, except ``close`` and ``is_closing``.

    uvicorn closes the transport directly in several places; here those calls reach the protocol,
    which closes without losing the response (``HardenedHttpProtocol.close``).
    """

    __slots__ = ("close", "get_extra_info", "is_closing", "pause_reading", "resume_reading",
                 "write")  # fmt: skip

    def __init__(
        self,
        transport: asyncio.Transport,
        close: Callable[[], None],
        is_closing: Callable[[], bool],
    ) -> None:
        self.close = close
        self.is_closing = is_closing
        self.get_extra_info = transport.get_extra_info
        self.pause_reading = transport.pause_reading
        self.resume_reading = transport.resume_reading
        self.write = transport.write

    def detach(self) -> None:
        """Drop the references to the protocol of a lost connection; stay closed.

        Protocol and transport refer to each other. The garbage collector runs rarely in this
        process, so without this the memory of hundreds of closed connections would pile up.
        """
        self.close = _do_nothing
        self.is_closing = _always_true


def _do_nothing() -> None:
    """``close`` of a connection that is already closed."""


def _always_true() -> bool:
    """``is_closing`` of a lost connection."""
    return True
