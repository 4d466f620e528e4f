"""The transport as uvicorn is given it: closed in the door's way."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class LingeringTransport:
    """A connection's transport; ``close`` and ``is_closing`` are its door's."""

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

    def let_go(self) -> None:
        """Forget the door, whose connection is lost: it is closed, and stays so.

        Each holds the other, and such circles wait for the collector, which looks rarely here:
        those of hundreds of connections would lie about.
        """
        self.close = _nothing
        self.is_closing = _always


def _nothing() -> None:
    """What closing a closed connection does."""


def _always() -> bool:
    """Whether a lost connection is closed."""
    return True
