"""Pass bytes on between two connections."""

from __future__ import annotations

import socket
from contextlib import suppress


def pass_on(source: socket.socket, sink: socket.socket) -> None:
    """Send what ``source`` receives to ``sink``, until either ends."""
    with suppress(OSError):
        while data := source.recv(65536):
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)
