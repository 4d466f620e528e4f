"""A TCP proxy that can silently stop relaying its open connections."""

from __future__ import annotations

import asyncio
import threading
from contextlib import suppress
from typing import Self

_CHUNK = 65536


class Proxy:
    """Relays 127.0.0.1:``port`` to 127.0.0.1:``behind`` in its own thread.

    After :meth:`drop`, open connections stay open but carry no data, like connections through a
    router that lost its state; new connections work.
    """

    def __init__(self, behind: int) -> None:
        self._behind = behind
        self._dropped = 0
        self._relays: list[asyncio.Task[None] | None] = []
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy")

    def __enter__(self) -> Self:
        self._thread.start()
        serving = asyncio.start_server(self._relay, "127.0.0.1", 0)
        self._server = asyncio.run_coroutine_threadsafe(serving, self._loop).result(10)
        self.port: int = self._server.sockets[0].getsockname()[1]
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def drop(self) -> int:
        """Stop relaying the open connections; returns their number."""
        lost = len(self._relays) - self._dropped
        self._dropped = len(self._relays)
        return lost

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._relays.append(asyncio.current_task())  # keeps a reference: the loop has none
        number = len(self._relays)
        server_reader, server_writer = await asyncio.open_connection("127.0.0.1", self._behind)
        try:
            with suppress(OSError, asyncio.CancelledError):  # cancelled when the proxy ends
                await asyncio.gather(
                    self._copy(number, reader, server_writer),
                    self._copy(number, server_reader, writer),
                )
        finally:
            for end in (server_writer, writer):
                end.transport.abort()

    async def _copy(
        self, number: int, source: asyncio.StreamReader, sink: asyncio.StreamWriter
    ) -> None:
        try:
            while data := await source.read(_CHUNK):
                if number > self._dropped:
                    sink.write(data)
                    await sink.drain()
        finally:
            if number > self._dropped:
                sink.close()

    async def _close(self) -> None:
        self._server.close()
        while others := asyncio.all_tasks() - {asyncio.current_task()}:
            for task in others:
                task.cancel()
            await asyncio.wait(others)
