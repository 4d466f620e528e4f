"""The receiver as a separate process, started as an operator starts it."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from tests.support import stores, webhooks
from tests.support.ports import free_port
from tests.support.processes import ServerProcess


@dataclass(frozen=True)
class Served:
    """A running receiver."""

    process: ServerProcess
    port: int

    def connect(self) -> socket.socket:
        """Open a raw connection."""
        return socket.create_connection(("127.0.0.1", self.port), timeout=15)


@contextmanager
def served(url: str, environment: Mapping[str, str]) -> Iterator[Served]:
    """Run ``codecatch run web`` on a migrated database."""
    port = free_port()
    variables = {
        "DATABASE_URL": url,
        "ENCRYPTION_KEYS": stores.ENCRYPTION_KEYS,
        "VIRTUALSMS_WEBHOOK_SECRETS": webhooks.SECRET,
        "DAISYSIM_WEBHOOK_TOKENS": webhooks.TOKEN,
        "LOG_LEVEL": "error",
        "PORT": str(port),
        **environment,
    }
    command = [sys.executable, "-m", "worker.cli", "run", "web"]
    process = ServerProcess(command, env={**os.environ, **variables})
    running = Served(process, port)

    def answers() -> bool:
        with running.connect() as connection:
            connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
            return connection.recv(12) == b"HTTP/1.1 200"

    try:
        process.wait_until(answers, within=30)
        yield running
    finally:
        process.stop()
