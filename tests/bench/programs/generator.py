"""Sends signed requests from a file and prints the answers' statuses and latencies as JSON.

With a rate the load is open: each request has a fixed due time, independent of earlier answers,
and its latency counts from then. The time at which each request was written is printed too, in the
order of the file. Without a rate each connection sends its next request after each answer.
"""

import argparse
import asyncio
import json
import re
import time
from collections import Counter, deque
from pathlib import Path
from typing import cast

import uvloop

_LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)
# The counters are polled at this interval: an asyncio.Event would slow each answer down.
_TICK = 0.001
_TIMEOUT = 10.0


class Run:
    """The requests of a run, and its counters."""

    def __init__(self, records: list[bytes], *, closed: bool) -> None:
        self.records = iter(records)
        self.closed = closed
        self.idle: deque[Connection] = deque()
        self.due: deque[float] = deque()
        self.latencies: list[float] = []
        self.sent: list[float] = []
        self.statuses: Counter[int] = Counter()
        self.in_flight = 0
        self.exhausted = False
        self.last = 0.0

    def fetch(self) -> bytes | None:
        """The next request; None if none is left."""
        record = next(self.records, None)
        self.exhausted = record is None
        return record

    def answered(self, connection: "Connection", status: int, latency: float) -> None:
        """Record an answer, and send the connection's next request."""
        self.last = time.perf_counter()
        self.in_flight -= 1
        self.statuses[status] += 1
        self.latencies.append(latency)
        if self.closed:
            connection.send(self.last)
        elif self.due:
            connection.send(self.due.popleft())
        else:
            self.idle.append(connection)

    def broken(self) -> None:
        """Record a request whose connection ended before its answer."""
        self.in_flight -= 1
        self.statuses[0] += 1


class Connection(asyncio.Protocol):
    """One kept-alive connection with one request in flight at most."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._buffer = b""
        self._since: float | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Add the connection to the idle ones."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's class is no subclass
        self._run.idle.append(self)

    def send(self, since: float) -> None:
        """Send the next request, if any; its latency counts from `since`."""
        record = self._run.fetch()
        if record is not None:
            self._since = since
            self._run.in_flight += 1
            if not self._run.closed:
                self._run.sent.append(time.perf_counter())
            self._transport.write(record)

    def data_received(self, data: bytes) -> None:
        """Read an answer."""
        self._buffer += data
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            return
        length = _LENGTH.search(self._buffer, 0, end)
        if len(self._buffer) < end + 4 + (int(length[1]) if length else 0):
            return
        status, self._buffer = int(self._buffer[9:12]), b""
        since, self._since = self._since, None
        if since is not None:
            self._run.answered(self, status, time.perf_counter() - since)

    def connection_lost(self, exc: Exception | None) -> None:
        """Remove the connection."""
        if self._since is not None:
            self._run.broken()
        elif self in self._run.idle:
            self._run.idle.remove(self)


async def main(options: argparse.Namespace, records: list[bytes]) -> dict[str, object]:
    """Send, wait for the requests in flight, and return the result."""
    run = Run(records, closed=not options.rate)
    loop = asyncio.get_running_loop()
    for _ in range(options.connections):
        await loop.create_connection(lambda: Connection(run), "127.0.0.1", options.port)
    start = time.perf_counter()
    if run.closed:
        while run.idle:
            run.idle.popleft().send(start)
        while run.in_flight and time.perf_counter() - start < options.seconds:  # noqa: ASYNC110
            await asyncio.sleep(_TICK)
        run.records = iter(())
    else:
        await _pace(run, options.rate, options.seconds, start)
    until = time.perf_counter() + _TIMEOUT
    while (run.in_flight or run.due) and time.perf_counter() < until:  # noqa: ASYNC110
        await asyncio.sleep(_TICK)
    latencies = sorted(run.latencies) or [0.0]
    return {
        "answers": len(run.latencies),
        "seconds": run.last - start,
        "statuses": {str(status): count for status, count in run.statuses.items()},
        "unanswered": run.in_flight + len(run.due),
        "exhausted": run.exhausted and not run.closed,
        "p50": latencies[len(latencies) // 2],
        "p99": latencies[len(latencies) * 99 // 100],
        "longest": latencies[-1],
        "sent": run.sent,
    }


async def _pace(run: Run, rate: float, seconds: float, start: float) -> None:
    sent = 0
    while (elapsed := time.perf_counter() - start) < seconds:
        while sent <= elapsed * rate:
            moment = start + sent / rate
            sent += 1
            if run.idle:
                run.idle.popleft().send(moment)
            else:
                run.due.append(moment)
        await asyncio.sleep(_TICK)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("file", type=Path)
    parser.add_argument("size", type=int)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--connections", type=int, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--rate", type=float, default=0.0)
    given = parser.parse_args()
    content = given.file.read_bytes()
    records = [content[at : at + given.size] for at in range(0, len(content), given.size)]
    print(json.dumps(uvloop.run(main(given, records))))
