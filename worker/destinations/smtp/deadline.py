"""Blocking sockets under one deadline: name look-up, connecting, and reading lines."""

from __future__ import annotations

import queue
import socket
import threading
import time
from typing import Any

_LONGEST_CONVERSATION = 1024 * 1024


class Deadline:
    """A moment by which everything must be over."""

    def __init__(self, seconds: float) -> None:
        self._ends_at = time.monotonic() + seconds

    @property
    def over(self) -> bool:
        """Whether the moment has come."""
        return time.monotonic() >= self._ends_at

    def remaining(self, *, at_least: float = 0.0) -> float:
        """Seconds left.

        Raises:
            TimeoutError: there are none, and ``at_least`` gives none.
        """
        seconds = max(at_least, self._ends_at - time.monotonic())
        if seconds <= 0:
            raise TimeoutError
        return seconds


class Lines:
    """The lines a socket receives before a deadline, and not too many of them."""

    def __init__(self, connection: socket.socket, deadline: Deadline) -> None:
        self._connection = connection
        self._deadline = deadline
        self._waiting = b""
        self._room = _LONGEST_CONVERSATION

    def readline(self, limit: int) -> bytes:
        """One line, or ``limit`` bytes of it, or nothing when the other side has closed."""
        while b"\n" not in self._waiting and len(self._waiting) < limit:
            self._connection.settimeout(self._deadline.remaining())
            received = self._connection.recv(4096)
            self._room -= len(received)
            if not received or self._room < 0:
                return b""
            self._waiting += received
        end = min(self._waiting.find(b"\n") + 1 or limit, limit)
        line, self._waiting = self._waiting[:end], self._waiting[end:]
        return line

    def close(self) -> None:
        """Nothing: the socket is closed by its owner."""


def look_up(host: str, port: int, deadline: Deadline) -> list[Any]:
    """``getaddrinfo`` in a thread of its own, as it has no time-out and cannot be interrupted."""
    answers: queue.SimpleQueue[list[Any] | OSError] = queue.SimpleQueue()

    def ask() -> None:
        try:
            answers.put(list(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)))
        except OSError as error:
            answers.put(error)

    threading.Thread(target=ask, name="smtp-look-up", daemon=True).start()
    try:
        answer = answers.get(timeout=deadline.remaining())
    except queue.Empty:
        raise TimeoutError from None
    if isinstance(answer, OSError):
        raise answer
    return answer


def connect(addresses: list[Any], deadline: Deadline) -> socket.socket:
    """The first address that answers; a dead one may use only its share of the time."""
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
