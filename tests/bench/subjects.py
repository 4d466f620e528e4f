"""The measured subjects: their processes, and queries for what they have committed."""

from __future__ import annotations

import http.client
import json
import os
import secrets
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Self

import psycopg

from tests.bench.databases import BenchDatabase
from tests.bench.load import BrokenBenchmarkError, Corpus
from tests.bench.programs import usual
from tests.bench.starting import becoming_ready, environment, listens, stopping
from tests.support import stores, webhooks
from tests.support.ports import free_port
from tests.support.postgres import PostgresServer
from tests.support.processes import ServerProcess
from tests.support.valkey import ValkeyServer

BARE = "bare"
USUAL = "usual way"
DEBIAN = "webhook 2.8"
SQLITE = "codecatch, SQLite"
POSTGRESQL = "codecatch, PostgreSQL"
OURS = (SQLITE, POSTGRESQL)
SUBJECTS = (BARE, USUAL, DEBIAN, *OURS)

_WEBHOOK = shutil.which("webhook")
_SLACK = """
[[destinations]]
name = "slack"
kind = "slack"
url_env = "SLACK_WEBHOOK_URL"
per_second = 1000
burst = 1000
"""
_READY_SECONDS = 30.0
_RULE = {
    "type": "payload-hmac-sha256",
    "secret": webhooks.SECRET,
    "parameter": {"source": "header", "name": "X-VirtualSMS-Signature"},
}
# Its default answer to a request that fails the rule is 200.
_HOOKS = [
    {
        "id": "virtualsms",
        "execute-command": "/bin/true",
        "http-methods": ["POST"],
        "trigger-rule-mismatch-http-response-code": 400,
        "trigger-rule": {"match": _RULE},
    }
]


@dataclass(frozen=True, slots=True)
class Running:
    """A running subject; ``environment`` is that of its processes."""

    name: str
    port: int
    receiver: ServerProcess
    corpus: Corpus
    database: BenchDatabase | None = None
    inbox: str | None = None
    """The table in which an event is stored before the answer, if there is one."""
    environment: Mapping[str, str] = field(default_factory=dict)
    flush: Callable[[], None] = field(default=lambda: None)

    def stored(self) -> int | None:
        """The number of durable events; None for a subject that stores none."""
        if self.database is None or self.inbox is None:
            return None
        return self.database.count(self.inbox)

    def handled(self) -> int:
        """The number of events whose effects are committed."""
        assert self.database is not None
        return self.database.count("codes")


class Lab:
    """The servers that the subjects need, each started on first use."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.corpus = Corpus(folder)
        self._stack = ExitStack()
        self._broker_databases = iter(range(1, ValkeyServer.DATABASES))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @cached_property
    def postgres(self) -> PostgresServer:
        """A PostgreSQL server that flushes each commit to disk."""
        with becoming_ready("PostgreSQL"):
            return self._stack.enter_context(PostgresServer(durable=True))

    @cached_property
    def valkey(self) -> ValkeyServer:
        """The broker of all subjects."""
        with becoming_ready("the broker"):
            return self._stack.enter_context(ValkeyServer())

    @cached_property
    def sink(self) -> int:
        """The port of a destination that accepts everything."""
        port = free_port()
        program = ["-m", "tests.bench.programs.sink", str(port)]
        server = self._stack.enter_context(self._server(program, {}))
        with becoming_ready("the sink"):
            server.wait_until(lambda: listens(port))
        return port

    def delivered(self) -> dict[int, float]:
        """When the sink first received each order, by number, since the last call."""
        with closing(http.client.HTTPConnection("127.0.0.1", self.sink, timeout=30)) as connection:
            connection.request("GET", "/delivered")
            first_seen = json.loads(connection.getresponse().read())
        return {int(order): moment for order, moment in first_seen.items()}

    @contextmanager
    def running(
        self,
        name: str,
        *,
        everything: bool = False,
        configuration: str = "",
        database: BenchDatabase | None = None,
    ) -> Iterator[Running]:
        """Run a subject as its users do: only the receiver, or ``everything``.

        codecatch reads ``configuration`` (TOML), if any, and uses ``database`` or a new one.

        Raises:
            BrokenBenchmarkError: it does not become ready.
        """
        with ExitStack() as stack:
            match name:
                case _ if name in OURS:
                    database = database or stack.enter_context(self.database(name))
                    variables = self._settings(database, configuration)
                    subject = self._codecatch(name, stack, database, variables, everything)
                case _ if name == USUAL:
                    subject = self._usual(stack, everything=everything)
                case _:
                    subject = {BARE: self._bare, DEBIAN: self._debian}[name](stack)
            with becoming_ready(name):
                subject.receiver.wait_until(lambda: _is_accepted(subject), within=_READY_SECONDS)
            yield subject

    @contextmanager
    def database(
        self, name: str, *, copy_of: BenchDatabase | None = None
    ) -> Iterator[BenchDatabase]:
        """A migrated database for codecatch, or a copy of an idle one; deleted at the end."""
        if name == POSTGRESQL:
            template = None if copy_of is None else copy_of.url.rpartition("/")[2]
            with self.postgres.database(template=template) as url:
                if copy_of is None:
                    stores.prepare(url)
                yield BenchDatabase(url)
            return
        file = self.folder / f"{secrets.token_hex(6)}.db"
        if copy_of is None:
            stores.prepare(BenchDatabase.in_file(file).url)
        else:
            copy_of.write_copy(file)
        yield BenchDatabase.in_file(file)
        for path in self.folder.glob(f"{file.name}*"):  # saves disk space
            path.unlink()

    def _bare(self, stack: ExitStack) -> Running:
        port = free_port()
        server = self._server(["-m", "tests.bench.programs.bare", str(port)], {})
        return Running(BARE, port, stack.enter_context(server), self.corpus)

    def _usual(self, stack: ExitStack, *, everything: bool) -> Running:
        url = stack.enter_context(self.postgres.database())
        with psycopg.connect(url) as connection:
            connection.execute(usual.TABLE)
        broker, flush = self._broker()
        variables = {
            "USUAL_BROKER": broker,
            "USUAL_DATABASE": url.replace("postgresql://", "postgresql+psycopg://"),
            "USUAL_SINK": f"http://127.0.0.1:{self.sink}/",
        }
        port = free_port()
        program = "tests.bench.programs.usual"
        server = stack.enter_context(self._server(["-m", program, str(port)], variables))
        if everything:
            celery = ["-m", "celery", "-A", f"{program}:celery", "worker", "--loglevel=WARNING"]
            workers = [*celery, "--pool=prefork", f"--concurrency={os.cpu_count() or 2}"]
            stack.enter_context(self._server(workers, variables))
        return Running(USUAL, port, server, self.corpus, BenchDatabase(url), flush=flush)

    def _debian(self, stack: ExitStack) -> Running:
        assert _WEBHOOK is not None
        hooks = self.folder / "hooks.json"
        hooks.write_text(json.dumps(_HOOKS))
        port = free_port()
        command = [_WEBHOOK, "-hooks", str(hooks), "-ip", "127.0.0.1", "-port", str(port)]
        command += ["-urlprefix", "webhooks"]
        server = stack.enter_context(stopping(ServerProcess(command, env=environment({}))))
        return Running(DEBIAN, port, server, self.corpus)

    def _codecatch(
        self,
        name: str,
        stack: ExitStack,
        database: BenchDatabase,
        variables: Mapping[str, str],
        everything: bool,
    ) -> Running:
        broker, flush = self._broker()
        port = free_port()
        variables = {**variables, "REDIS_URL": broker, "PORT": str(port)}
        for part in ("worker", "sender", "beat") if everything else ():
            stack.enter_context(self._server(["-m", "worker.cli", "run", part], variables))
        server = stack.enter_context(self._server(["-m", "worker.cli", "run", "web"], variables))
        return Running(
            name, port, server, self.corpus, database, "inbox_events", environment(variables), flush
        )

    def _settings(self, database: BenchDatabase, configuration: str) -> dict[str, str]:
        settings = {
            "DATABASE_URL": database.url,
            "ENCRYPTION_KEYS": stores.ENCRYPTION_KEYS,
            "VIRTUALSMS_WEBHOOK_SECRETS": webhooks.SECRET,
            "SLACK_WEBHOOK_URL": f"http://127.0.0.1:{self.sink}/",
            "DESTINATION_ALLOWED_HOSTS": f"127.0.0.1:{self.sink}",
        }
        if configuration:
            file = self.folder / f"{secrets.token_hex(6)}.toml"
            file.write_text(configuration)
            settings["CODECATCH_CONFIG"] = str(file)
        return settings

    @contextmanager
    def _server(
        self, command: Sequence[str], variables: Mapping[str, str]
    ) -> Iterator[ServerProcess]:
        process = ServerProcess(
            [sys.executable, *command], cwd=self.folder, env=environment(variables)
        )
        with stopping(process):
            yield process

    def _broker(self) -> tuple[str, Callable[[], None]]:
        database = next(self._broker_databases)
        return self.valkey.url_of(database), lambda: self.valkey.flush(database)


def slack(*, coalesce: bool) -> str:
    """A configuration with a rate far above Slack's limit, so that the pace does not matter."""
    return _SLACK + f"coalesce = {str(coalesce).lower()}\n"


def missing(name: str) -> str | None:
    """The reason why a subject cannot be measured here, if there is one."""
    return "it is not installed" if name == DEBIAN and _WEBHOOK is None else None


def _is_accepted(subject: Running) -> bool:
    """Send one new request, which must get a 2xx."""
    file, _ = subject.corpus.write(1)
    head, body = file.read_bytes().split(b"\r\n\r\n", 1)
    file.unlink()
    lines = [line.split(": ", 1) for line in head.decode().split("\r\n")[1:]]
    connection = http.client.HTTPConnection("127.0.0.1", subject.port, timeout=5)
    with closing(connection):
        connection.request("POST", "/webhooks/virtualsms", body, dict(lines))
        status = connection.getresponse().status
    if not 200 <= status < 300:
        raise BrokenBenchmarkError(f"{subject.name} answered {status} to an authentic request")
    return True
