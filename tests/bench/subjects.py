"""What is measured: each subject's processes, and how to ask it what it has committed."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import socket
import sqlite3
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Self

import psutil
import psycopg

from tests.bench.load import ROOT, BrokenBenchmarkError, Corpus
from tests.bench.programs import usual
from tests.support import stores, webhooks
from tests.support.ports import free_port
from tests.support.postgres import PostgresServer
from tests.support.processes import ServerProcess
from tests.support.valkey import ValkeyServer
from tests.support.waiting import eventually

CEILING = "ceiling"
USUAL = "usual way"
DEBIAN = "webhook 2.8"
SQLITE = "codecatch, SQLite"
POSTGRESQL = "codecatch, PostgreSQL"
OURS = (SQLITE, POSTGRESQL)
SUBJECTS = (CEILING, USUAL, DEBIAN, *OURS)

_WEBHOOK = shutil.which("webhook")
# A developer's own settings must not change what is measured.
_KEPT = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "LD_LIBRARY_PATH", "VIRTUAL_ENV")
# The share of a core that counts as rest, and how long it is looked at.
_REST = 0.15
_LOOK_SECONDS = 0.2
_LONGEST_REST = 30.0
_RULE = {
    "type": "payload-hmac-sha256",
    "secret": webhooks.SECRET,
    "parameter": {"source": "header", "name": "X-VirtualSMS-Signature"},
}
# Its own answer to a request that breaks the rule is 200.
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
    """A subject that answers; ``count`` says how many rows a table of its database has."""

    name: str
    port: int
    receiver: ServerProcess
    corpus: Corpus
    count: Callable[[str], int] | None
    flush: Callable[[], None] = field(default=lambda: None)

    def stored(self) -> int | None:
        """How many events are on durable storage; None for a subject that stores none."""
        return self.count("inbox_events") if self.count and self.name in OURS else None

    def handled(self) -> int:
        """How many events have had their effects committed."""
        assert self.count is not None
        return self.count("codes")


class Lab:
    """The servers that the subjects need, each started when first asked for."""

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
        """A PostgreSQL that flushes each commit to a disk."""
        return self._stack.enter_context(PostgresServer(durable=True))

    @cached_property
    def valkey(self) -> ValkeyServer:
        """The broker of every subject that has one."""
        return self._stack.enter_context(ValkeyServer())

    @cached_property
    def sink(self) -> int:
        """The port of a destination that takes everything."""
        port = free_port()
        program = ["-m", "tests.bench.programs.sink", str(port)]
        server = self._stack.enter_context(self._server(program, {}))
        server.wait_until(lambda: _listens(port))
        return port

    @contextmanager
    def running(self, name: str, *, everything: bool = False) -> Iterator[Running]:
        """A subject, as its users start it: the receiver alone, or ``everything``."""
        with ExitStack() as stack:
            start = {CEILING: self._ceiling, USUAL: self._usual, DEBIAN: self._debian}
            subject = start.get(name, self._codecatch)(name, stack, everything=everything)
            subject.receiver.wait_until(lambda: _is_accepted(subject), within=30)
            yield subject

    def _ceiling(self, name: str, stack: ExitStack, *, everything: bool) -> Running:
        port = free_port()
        server = self._server(["-m", "tests.bench.programs.ceiling", str(port)], {})
        return Running(name, port, stack.enter_context(server), self.corpus, None)

    def _usual(self, name: str, stack: ExitStack, *, everything: bool) -> Running:
        url, count = self._postgres_database(stack)
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
        return Running(name, port, server, self.corpus, count, flush)

    def _debian(self, name: str, stack: ExitStack, *, everything: bool) -> Running:
        assert _WEBHOOK is not None
        hooks = self.folder / "hooks.json"
        hooks.write_text(json.dumps(_HOOKS))
        port = free_port()
        command = [_WEBHOOK, "-hooks", str(hooks), "-ip", "127.0.0.1", "-port", str(port)]
        command += ["-urlprefix", "webhooks"]
        server = stack.enter_context(_stopping(ServerProcess(command, env=_environment({}))))
        return Running(name, port, server, self.corpus, None)

    def _codecatch(self, name: str, stack: ExitStack, *, everything: bool) -> Running:
        if name == SQLITE:
            url, count = self._sqlite_database()
        else:
            url, count = self._postgres_database(stack)
        stores.prepare(url)
        broker, flush = self._broker()
        port = free_port()
        variables = {
            "DATABASE_URL": url,
            "REDIS_URL": broker,
            "ENCRYPTION_KEYS": stores.ENCRYPTION_KEYS,
            "VIRTUALSMS_WEBHOOK_SECRETS": webhooks.SECRET,
            "PORT": str(port),
            "SLACK_WEBHOOK_URL": f"http://127.0.0.1:{self.sink}/",
            "DESTINATION_ALLOWED_HOSTS": f"127.0.0.1:{self.sink}",
        }
        for part in ("worker", "sender", "beat") if everything else ():
            stack.enter_context(self._server(["-m", "worker.cli", "run", part], variables))
        server = stack.enter_context(self._server(["-m", "worker.cli", "run", "web"], variables))
        return Running(name, port, server, self.corpus, count, flush)

    @contextmanager
    def _server(
        self, command: Sequence[str], variables: Mapping[str, str]
    ) -> Iterator[ServerProcess]:
        process = ServerProcess(
            [sys.executable, *command], cwd=self.folder, env=_environment(variables)
        )
        with _stopping(process):
            yield process

    def _broker(self) -> tuple[str, Callable[[], None]]:
        database = next(self._broker_databases)
        return self.valkey.url_of(database), lambda: self.valkey.flush(database)

    def _sqlite_database(self) -> tuple[str, Callable[[str], int]]:
        file = self.folder / f"{free_port()}.db"

        def count(table: str) -> int:
            with closing(sqlite3.connect(file)) as connection:
                (rows,) = connection.execute(f"SELECT count(*) FROM {table}").fetchone()
            return int(rows)

        return f"sqlite:///{file}", count

    def _postgres_database(self, stack: ExitStack) -> tuple[str, Callable[[str], int]]:
        url = stack.enter_context(self.postgres.database())

        def count(table: str) -> int:
            with psycopg.connect(url) as connection:
                row = connection.execute(f"SELECT count(*) FROM {table}".encode()).fetchone()
            assert row is not None
            return int(row[0])

        return url, count


def missing(name: str) -> str | None:
    """Why a subject cannot be measured here, if it cannot."""
    return "it is not installed" if name == DEBIAN and _WEBHOOK is None else None


def settle(subject: Running) -> None:
    """Wait until a subject has done what it does after its answers: the next one wants its turn.

    Raises:
        BrokenBenchmarkError: it never rests.
    """
    process = psutil.Process(subject.receiver.pid)

    def rests() -> bool:
        before = sum(process.cpu_times()[:4])
        time.sleep(_LOOK_SECONDS)
        return bool(sum(process.cpu_times()[:4]) - before <= _LOOK_SECONDS * _REST)

    try:
        eventually(rests, within=_LONGEST_REST)
    except AssertionError as error:
        raise BrokenBenchmarkError(f"{subject.name} is still busy: {error}") from None


def check_stored(subject: Running, before: int | None, answers: int, in_flight: int) -> None:
    """See that everything answered was stored, and nothing that was not sent.

    Raises:
        BrokenBenchmarkError: fewer events are stored than were answered, or far more.
    """
    if before is None:
        return
    new = (subject.stored() or 0) - before
    if not answers <= new <= answers + in_flight:
        raise BrokenBenchmarkError(f"{subject.name}: {answers} answered, {new} stored")


def _is_accepted(subject: Running) -> bool:
    """Whether the subject answers a new request of the corpus with 2xx."""
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


def _listens(port: int) -> bool:
    with socket.create_connection(("127.0.0.1", port), timeout=1):
        return True


@contextmanager
def _stopping(process: ServerProcess) -> Iterator[ServerProcess]:
    try:
        yield process
    finally:
        process.stop(within=20)


def _environment(variables: Mapping[str, str]) -> dict[str, str]:
    kept = {name: os.environ[name] for name in _KEPT if name in os.environ}
    return {**kept, "PYTHONPATH": str(ROOT), **variables}


def wait_handled(subject: Running, events: int, *, within: float) -> None:
    """Wait until the effects of all of so many events are committed.

    Raises:
        BrokenBenchmarkError: they were not in time.
    """
    try:
        eventually(lambda: subject.handled() >= events, within=within, every=0.1)
    except AssertionError as error:
        raise BrokenBenchmarkError(f"{subject.name}: not all of {events} events: {error}") from None
