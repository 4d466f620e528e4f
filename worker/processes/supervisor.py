"""``codecatch up``: every part on one machine, started in order, watched, and stopped."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from pathlib import Path

import structlog

from receiver import logs
from receiver.database import heartbeats
from receiver.database.engine import Database
from receiver.errors import CodecatchError, ConfigurationError
from receiver.providers.registry import registry
from receiver.settings import BrokerSettings, LogSettings, StoreSettings, WebSettings, load
from receiver.vault import index_key
from worker.admin.settings import AdminSettings
from worker.http.client import HttpClient, HttpError
from worker.processes import parts
from worker.processes.embedded_broker import EmbeddedBroker
from worker.runtime import child_process, installation
from worker.runtime.integrations import connect_integrations
from worker.schema import migrate as schema

# In the order they are started; they are stopped together, and the broker after them.
PARTS = ("web", "worker", "sender", "beat")
# Only where it has a token.
ADMIN = "admin"
_READY_SECONDS = 60.0
_STOP_SECONDS = 25.0
_TICK_SECONDS = 0.1
_LONGEST_PAUSE = 10.0
# A part that ran this long was not broken from the start.
_STEADY_SECONDS = 30.0
# Where other terminals look, unless they are told.
_USUAL = tuple(WebSettings.model_fields[name].default for name in ("host", "port"))
_log = structlog.get_logger(__name__)


@dataclass(slots=True)
class _Child:
    """A part, and when it is to be started again after it died."""

    name: str
    start: Callable[[], child_process.Process]
    process: child_process.Process
    started: float = field(default_factory=time.monotonic)
    pause: float = 0.5
    again_at: float | None = None

    def look(self) -> None:
        """Start the part again if it died, a little later each time it dies young."""
        now = time.monotonic()
        if self.again_at is not None:
            if now >= self.again_at:
                self._start_again(now)
            return
        code = self.process.poll()
        if code is None:
            return
        self._plan_restart(now, f"exit code {code}")

    def _start_again(self, now: float) -> None:
        try:
            self.process, self.started, self.again_at = self.start(), now, None
        except (ConfigurationError, OSError) as error:
            self._plan_restart(now, str(error))

    def _plan_restart(self, now: float, why: str) -> None:
        young = now - self.started < _STEADY_SECONDS
        self.pause = min(self.pause * 2, _LONGEST_PAUSE) if young else 0.5
        self.again_at = now + self.pause
        _log.warning("part.died", name=self.name, why=why, restart_in=self.pause)


def up(say: Callable[[str], None]) -> None:
    """Run everything until SIGINT or SIGTERM; ``say`` prints a line for the person who started it.

    Raises:
        ConfigurationError: something cannot work; nothing is left running.
    """
    logs.configure(load(LogSettings), part="up")
    folder = installation.data_dir()
    os.umask(0o077)  # what is kept here is for its owner only
    os.environ[child_process.SUPERVISED] = str(os.getpid())
    web = load(WebSettings)
    _check_port("HOST", web.host, "PORT", web.port)
    admin = load(AdminSettings)
    if admin.admin_token is not None:
        _check_port("ADMIN_HOST", admin.admin_host, "ADMIN_PORT", admin.admin_port)
    stopping = _catch_signals()
    children: list[_Child] = []
    with _only_one(folder):
        installation.prepare(folder)
        store = load(StoreSettings)
        _check_settings()
        try:
            _start(folder, store, children, say)
            if _wait_until_ready(store, web, children, stopping):
                say("codecatch is ready")
            while not stopping.wait(_TICK_SECONDS):
                for child in children:
                    child.look()
        finally:
            _stop(children)


def _start(
    folder: Path, store: StoreSettings, children: list[_Child], say: Callable[[str], None]
) -> None:
    if load(BrokerSettings).broker_url is None:
        broker = EmbeddedBroker()
        os.environ["REDIS_URL"] = broker.url
        children.append(_Child("broker", broker.start, broker.start()))
        installation.announce_broker(folder, broker.url)
    parts.load_all()
    database = Database(store.url)
    schema.migrate(database, store.keys)
    index_key.open_vault(database, store.keys)
    database.dispose()
    for name in _wanted():
        start = _starter(name)
        children.append(_Child(name, start, _fork(name) if child_process.can_fork() else start()))
    _introduce(folder, say)


def _wanted() -> tuple[str, ...]:
    return PARTS if load(AdminSettings).admin_token is None else (*PARTS, ADMIN)


def _fork(name: str) -> child_process.Process:
    return child_process.fork(partial(_run, name), name)


def _run(name: str) -> None:
    """What ``codecatch run NAME`` does, in a process that was forked and not executed."""
    try:
        parts.run(name)
    except CodecatchError as error:
        print(f"codecatch: {error}", file=sys.stderr)
        sys.exit(1)


def _starter(name: str) -> Callable[[], child_process.Process]:
    # Standard output is for the person who started us: what a part prints there is log.
    return lambda: child_process.start(
        [sys.executable, "-P", "-m", "worker.cli", "run", name], stdout=sys.stderr
    )


def _introduce(folder: Path, say: Callable[[str], None]) -> None:
    web = load(WebSettings)
    host = f"[{web.host}]" if ":" in web.host else web.host
    base = f"http://{host}:{web.port}/webhooks"
    token = os.environ["DAISYSIM_WEBHOOK_TOKENS"].partition(",")[0].strip()
    command = sys.argv[0] if "/" in sys.argv[0] and not sys.argv[0].endswith(".py") else "codecatch"
    say("Webhook URLs, to be pasted into the providers' dashboards behind your public address:")
    say(f"  VirtualSMS  {base}/virtualsms")
    say(f"              (the signing secret is VIRTUALSMS_WEBHOOK_SECRETS in {folder}/secrets.env")
    say("              or your environment: set it to the one that the dashboard shows)")
    say(f"  DaisySIM    {base}/daisysim/{token}")
    say("Try it from another terminal:")
    where = "" if (web.host, web.port) == _USUAL else f" --url http://{host}:{web.port}"
    say(f"  {command} simulate virtualsms sms.received --order demo{where} && {command} wait demo")


def _catch_signals() -> threading.Event:
    """What is set once somebody asks us to stop; nothing is interrupted where it stands."""
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    return stopping


def _wait_until_ready(
    store: StoreSettings, web: WebSettings, children: list[_Child], stopping: threading.Event
) -> bool:
    """Wait until a webhook would be accepted and handled; False if asked to stop before."""
    host = "127.0.0.1" if web.host in {"0.0.0.0", "::"} else web.host  # noqa: S104 - a comparison
    authority = f"[{host}]:{web.port}" if ":" in host else f"{host}:{web.port}"
    here = [authority]
    http = HttpClient(
        allowed_hosts=here, plain_http_hosts=here, private_hosts=here, total_timeout=2
    )
    database = Database(store.url)
    with database.reading() as session:
        since = database.now(session)
    until = time.monotonic() + _READY_SECONDS
    try:
        while not (_accepts(http, f"http://{authority}/readyz") and _handles(database, since)):
            for child in children:
                if child.process.poll() is not None:
                    raise ConfigurationError(f"{child.name} stopped at its start: see the log")
            if time.monotonic() > until:
                raise ConfigurationError(f"not ready within {_READY_SECONDS:.0f} s: see the log")
            if stopping.wait(_TICK_SECONDS):
                return False
        return True
    finally:
        http.close()
        database.dispose()


def _accepts(http: HttpClient, url: str) -> bool:
    try:
        return http.request("GET", url).status == 200
    except HttpError:
        return False


def _handles(database: Database, since: datetime) -> bool:
    """Whether both kinds of worker did something since then: older signs are another run's."""
    with database.reading() as session:
        seen = [heartbeats.seen(session, part) for part in ("worker", "sender")]
    return all(moment is not None and moment > since for moment in seen)


def _check_settings() -> None:
    """Find what no part could start with, before any part is started."""
    load(BrokerSettings)
    for provider in registry().values():
        load(provider.settings_type)
    connect_integrations().close()


def _check_port(host_variable: str, host: str, port_variable: str, port: int) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            if error.errno in {errno.EADDRINUSE, errno.EACCES}:
                raise ConfigurationError(
                    f"{port_variable}: cannot listen on port {port} ({error.strerror}): "
                    f"stop what listens there, or set {port_variable} to another"
                ) from None
            raise ConfigurationError(
                f"{host_variable}: wants an address of this machine ({error.strerror})"
            ) from None


@contextmanager
def _only_one(folder: Path) -> Iterator[None]:
    """Hold the data directory: two supervisors over one would undo each other's work."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = (folder / "lock").open("w")
    except OSError as error:
        raise ConfigurationError(f"CODECATCH_DATA_DIR: cannot be used: {error.strerror}") from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise ConfigurationError(
                f"CODECATCH_DATA_DIR: another codecatch is running in {folder}"
            ) from None
        yield


def _stop(children: list[_Child]) -> None:
    """Ask the parts to stop, then make them; the broker last, since they need it for that."""
    parts = [child.process for child in children if child.name != "broker"]
    _end(parts)
    _end([child.process for child in children if child.name == "broker"])


def _end(running: list[child_process.Process]) -> None:
    for process in running:
        if process.poll() is None:
            process.terminate()
    until = time.monotonic() + _STOP_SECONDS
    for process in running:
        try:
            process.wait(max(0.0, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
