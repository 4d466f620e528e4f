"""A relay before a server that can let go of what passes without either side noticing."""

from __future__ import annotations

import asyncio
import threading
from contextlib import suppress
from typing import Self

_CHUNK = 65536


class Proxy:
    """Relays 127.0.0.1:``port`` to 127.0.0.1:``behind``, from a thread of its own.

    After :meth:`drop`, the connections that are open stay so and carry nothing any more, as those
    through a router that lost its memory; new ones work.
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
        """Let the connections that are open carry nothing any more; how many those are."""
        lost = len(self._relays) - self._dropped
        self._dropped = len(self._relays)
        return lost

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._relays.append(asyncio.current_task())  # a loop forgets what waits for nothing
        number = len(self._relays)
        there, back = await asyncio.open_connection("127.0.0.1", self._behind)
        try:
            with suppress(OSError, asyncio.CancelledError):  # the latter when the proxy ends
                await asyncio.gather(
                    self._carry(number, reader, back), self._carry(number, there, writer)
                )
        finally:
            for end in (back, writer):
                end.transport.abort()

    async def _carry(
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
