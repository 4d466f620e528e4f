"""Blocking sockets under one deadline: name resolution, connecting, reading lines."""

from __future__ import annotations

import socket
import time

from worker.http.blocking import resolve

_MAX_RECEIVED = 1024 * 1024


class Deadline:
    """The time by which an operation must end."""

    def __init__(self, seconds: float) -> None:
        self._ends_at = time.monotonic() + seconds

    @property
    def expired(self) -> bool:
        """Whether the time has come."""
        return time.monotonic() >= self._ends_at

    def remaining(self, *, at_least: float = 0.0) -> float:
        """Seconds left.

        Raises:
            TimeoutError: the deadline has expired, and ``at_least`` is 0.
        """
        seconds = max(at_least, self._ends_at - time.monotonic())
        if seconds <= 0:
            raise TimeoutError
        return seconds


class LineReader:
    """Reads lines from a socket until a deadline, up to a total size."""

    def __init__(self, connection: socket.socket, deadline: Deadline) -> None:
        self._connection = connection
        self._deadline = deadline
        self._buffer = b""
        self._bytes_left = _MAX_RECEIVED

    def readline(self, limit: int) -> bytes:
        """One line, or its first ``limit`` bytes; empty when the peer has closed the connection."""
        while b"\n" not in self._buffer and len(self._buffer) < limit:
            self._connection.settimeout(self._deadline.remaining())
            received = self._connection.recv(4096)
            self._bytes_left -= len(received)
            if not received or self._bytes_left < 0:
                return b""
            self._buffer += received
        end = min(self._buffer.find(b"\n") + 1 or limit, limit)
        line, self._buffer = self._buffer[:end], self._buffer[end:]
        return line

    def close(self) -> None:
        """Do nothing: the owner closes the socket."""


def connect(host: str, port: int, deadline: Deadline) -> socket.socket:
    """Connect to the first address that accepts; each gets an equal share of the time left."""
    addresses = resolve(host, port, deadline.remaining())
    failure = OSError("no address")
    for tried, (family, kind, protocol, _, address) in enumerate(addresses):
        connection = socket.socket(family, kind, protocol)
        try:
            connection.settimeout(deadline.remaining() / (len(addresses) - tried))
            connection.connect(address)
        except OSError as error:
            connection.close()
            failure = error
        else:
            return connection
    raise failure
