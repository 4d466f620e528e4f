"""``codecatch up``: starts all parts on one machine, restarts those that die, stops them."""

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
from worker.maintenance import stored_numbers
from worker.processes import parts
from worker.processes.embedded_broker import EmbeddedBroker
from worker.runtime import child_process, installation
from worker.runtime.integrations import connect_integrations
from worker.schema import migrate as schema

# In starting order; they are stopped together, and the broker after them.
PARTS = ("web", "worker", "sender", "beat")
# Started only if ADMIN_TOKEN is set.
ADMIN = "admin"
_READY_SECONDS = 60.0
# How long old phone numbers may delay the start; the workers continue.
_REWRITE_SECONDS = 5.0
_STOP_SECONDS = 25.0
_TICK_SECONDS = 0.1
_FIRST_RESTART_DELAY = 0.5
_MAX_RESTART_DELAY = 10.0
# A part that ran this long started successfully: its restart delay is reset.
_STABLE_SECONDS = 30.0
# The address that `codecatch simulate` uses by default.
_DEFAULT_ADDRESS = tuple(WebSettings.model_fields[name].default for name in ("host", "port"))
_log = structlog.get_logger(__name__)


@dataclass(slots=True)
class _Child:
    """A part's process, and when to restart it after it died."""

    name: str
    start: Callable[[], child_process.Process]
    process: child_process.Process
    started: float = field(default_factory=time.monotonic)
    restart_delay: float = _FIRST_RESTART_DELAY
    restart_at: float | None = None

    def check(self) -> None:
        """Restart the part if it died, with a longer delay each time it dies soon."""
        now = time.monotonic()
        if self.restart_at is not None:
            if now >= self.restart_at:
                self._restart(now)
            return
        code = self.process.poll()
        if code is None:
            return
        self._plan_restart(now, f"exit code {code}")

    def _restart(self, now: float) -> None:
        try:
            self.process, self.started, self.restart_at = self.start(), now, None
        except (ConfigurationError, OSError) as error:
            self._plan_restart(now, str(error))

    def _plan_restart(self, now: float, reason: str) -> None:
        died_soon = now - self.started < _STABLE_SECONDS
        self.restart_delay = (
            min(self.restart_delay * 2, _MAX_RESTART_DELAY) if died_soon else _FIRST_RESTART_DELAY
        )
        self.restart_at = now + self.restart_delay
        _log.warning("part.died", name=self.name, reason=reason, restart_in=self.restart_delay)


def up(print_line: Callable[[str], None]) -> None:
    """Run all parts until SIGINT or SIGTERM; ``print_line`` shows a line on the terminal.

    Raises:
        ConfigurationError: a setting is invalid or a part does not start; all parts are stopped.
    """
    logs.configure(load(LogSettings), part="up")
    child_process.name_process("up")
    folder = installation.data_dir()
    os.umask(0o077)  # files in the data directory are readable by their owner only
    os.environ[child_process.SUPERVISED] = str(os.getpid())
    web = load(WebSettings)
    _check_port("HOST", web.host, "PORT", web.port)
    admin = load(AdminSettings)
    if admin.admin_token is not None:
        _check_port("ADMIN_HOST", admin.admin_host, "ADMIN_PORT", admin.admin_port)
    stopping = _catch_signals()
    children: list[_Child] = []
    with _locked(folder):
        installation.prepare(folder)
        store = load(StoreSettings)
        _check_settings()
        try:
            _start(folder, store, children, print_line)
            if _wait_until_ready(store, web, children, stopping):
                print_line("codecatch is ready")
            while not stopping.wait(_TICK_SECONDS):
                for child in children:
                    child.check()
        finally:
            _stop(children)


def _start(
    folder: Path, store: StoreSettings, children: list[_Child], print_line: Callable[[str], None]
) -> None:
    if load(BrokerSettings).broker_url is None:
        broker = EmbeddedBroker()
        os.environ["REDIS_URL"] = broker.url
        children.append(_Child("broker", broker.start, broker.start()))
        installation.announce_broker(folder, broker.url)
    parts.load_all()
    database = Database(store.url)
    schema.migrate(database, store.keys)
    vault = index_key.open_vault(database, store.keys)
    stored_numbers.rewrite(database, vault, seconds=_REWRITE_SECONDS)
    database.dispose()
    for name in _configured_parts():
        start = _starter(name)
        children.append(_Child(name, start, _fork(name) if child_process.can_fork() else start()))
    _print_instructions(folder, print_line)


def _configured_parts() -> tuple[str, ...]:
    return PARTS if load(AdminSettings).admin_token is None else (*PARTS, ADMIN)


def _fork(name: str) -> child_process.Process:
    return child_process.fork(partial(_run, name), name)


def _run(name: str) -> None:
    """Do what ``codecatch run NAME`` does, in a forked process."""
    try:
        parts.run(name)
    except CodecatchError as error:
        print(f"codecatch: {error}", file=sys.stderr)
        sys.exit(1)


def _starter(name: str) -> Callable[[], child_process.Process]:
    # Standard output is for the instructions: send the log of the parts to standard error.
    return lambda: child_process.start(
        [sys.executable, "-P", "-m", "worker.cli", "run", name], stdout=sys.stderr
    )


def _print_instructions(folder: Path, print_line: Callable[[str], None]) -> None:
    web = load(WebSettings)
    host = f"[{web.host}]" if ":" in web.host else web.host
    base = f"http://{host}:{web.port}/webhooks"
    token = os.environ["DAISYSIM_WEBHOOK_TOKENS"].partition(",")[0].strip()
    command = sys.argv[0] if "/" in sys.argv[0] and not sys.argv[0].endswith(".py") else "codecatch"
    print_line(
        "Paste these webhook URLs, with your public address, into the providers' dashboards:"
    )
    print_line(f"  VirtualSMS  {base}/virtualsms")
    print_line(
        f"              (VIRTUALSMS_WEBHOOK_SECRETS in {folder}/secrets.env or your environment"
    )
    print_line("              must be the signing secret that the dashboard shows)")
    print_line(f"  DaisySIM    {base}/daisysim/{token}")
    print_line("Try it from another terminal:")
    url = "" if (web.host, web.port) == _DEFAULT_ADDRESS else f" --url http://{host}:{web.port}"
    simulate = f"{command} simulate virtualsms sms.received --order demo{url}"
    print_line(f"  {simulate} && {command} wait demo")


def _catch_signals() -> threading.Event:
    """An event that SIGTERM and SIGINT set, so that they interrupt no operation."""
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    return stopping


def _wait_until_ready(
    store: StoreSettings, web: WebSettings, children: list[_Child], stopping: threading.Event
) -> bool:
    """Wait until webhooks are accepted and handled; False if ``stopping`` is set before."""
    host = "127.0.0.1" if web.host in {"0.0.0.0", "::"} else web.host  # noqa: S104 - a comparison
    authority = f"[{host}]:{web.port}" if ":" in host else f"{host}:{web.port}"
    hosts = [authority]
    http = HttpClient(
        allowed_hosts=hosts, plain_http_hosts=hosts, private_hosts=hosts, total_timeout=2
    )
    database = Database(store.url)
    with database.reading() as session:
        since = database.now(session)
    until = time.monotonic() + _READY_SECONDS
    try:
        while not (_accepts(http, f"http://{authority}/readyz") and _handles(database, since)):
            for child in children:
                if child.process.poll() is not None:
                    raise ConfigurationError(f"{child.name} did not start; see the log")
            if time.monotonic() > until:
                raise ConfigurationError(f"not ready within {_READY_SECONDS:.0f} s; see the log")
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
    """Whether both kinds of worker sent a heartbeat since then; older ones are of another run."""
    with database.reading() as session:
        seen = [heartbeats.seen(session, part) for part in ("worker", "sender")]
    return all(moment is not None and moment > since for moment in seen)


def _check_settings() -> None:
    """Report invalid settings before any part is started."""
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
                    f"{port_variable}: cannot listen on port {port} ({error.strerror}); "
                    f"stop the process that uses it, or set {port_variable} to another port"
                ) from None
            raise ConfigurationError(
                f"{host_variable}: must be an address of this machine ({error.strerror})"
            ) from None


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Lock the data directory: only one supervisor may use it at a time."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = (folder / "lock").open("w")
    except OSError as error:
        raise ConfigurationError(
            f"CODECATCH_DATA_DIR: cannot create or use the directory: {error.strerror}"
        ) from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise ConfigurationError(
                f"CODECATCH_DATA_DIR: another codecatch is running in {folder}; stop it first"
            ) from None
        yield


def _stop(children: list[_Child]) -> None:
    """Stop the parts, then the broker, which they need until they have stopped."""
    _terminate([child.process for child in children if child.name != "broker"])
    _terminate([child.process for child in children if child.name == "broker"])


def _terminate(running: list[child_process.Process]) -> None:
    """Send SIGTERM, and SIGKILL to those that still run after a while."""
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
