"""An installation whose parts a test kills, and which restarts them at once."""

from __future__ import annotations

import base64
import os
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Self
from urllib.request import urlopen

import psutil

from tests.end_to_end.installation import Integrations
from tests.support.ports import free_port
from tests.support.processes import leashed
from tests.support.stores import ENCRYPTION_KEYS
from tests.support.waiting import eventually

PARTS = ("web", "worker", "sender", "beat")
_POLL_SECONDS = 0.02
_DESTINATION = """
[[destinations]]
name = "team"
kind = "webhook"
url_env = "TEAM_URL"
secret_env = "TEAM_SECRET"
per_second = 1000.0
burst = 1000
coalesce = false

[operators]
to = ["team"]
"""


class SupervisedInstallation:
    """Web, worker, sender and beat with a database, a broker and fake external services.

    A part that dies is restarted, as a service manager does. Each of the failpoints ``points``
    kills the next process that reaches it after :meth:`arm`.
    """

    def __init__(
        self,
        folder: Path,
        integrations: Integrations,
        *,
        database_url: str,
        broker_url: str,
        parts: Sequence[str] = PARTS,
        points: Sequence[str] = (),
        **variables: str,
    ) -> None:
        self.folder = folder
        self.port = free_port()
        self.database_url = database_url
        self.spool = Path(variables.get("SPOOL_DIR", folder / "spool"))
        self.starts = dict.fromkeys(parts, 0)
        self._processes: dict[str, psutil.Process] = {}
        self._stopped: set[str] = set()
        self._starter_lock = threading.Lock()
        self._closing = threading.Event()
        self._supervisor = threading.Thread(target=self._supervise, name="supervisor")
        armed = ",".join(f"{point}=kill@{self._token(point)}" for point in points)
        config = folder / "codecatch.toml"
        config.write_text(_DESTINATION)
        self.environment = {
            **os.environ,
            **_external_services(integrations),
            "DATABASE_URL": database_url,
            "REDIS_URL": broker_url,
            "ENCRYPTION_KEYS": ENCRYPTION_KEYS,
            "SPOOL_DIR": str(self.spool),
            "PORT": str(self.port),
            "CODECATCH_CONFIG": str(config),
            "CODECATCH_FAILPOINTS": armed,
            "LOG_FORMAT": "json",
            **variables,
        }

    def __enter__(self) -> Self:
        self._starter = subprocess.Popen(
            leashed([sys.executable, "-m", "tests.faults.process_starter"]),
            env=self.environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            cwd=Path(__file__).parents[2], start_new_session=True,
        )  # fmt: skip
        for part in self.starts:
            self._start(part)
        self._supervisor.start()
        eventually(self.answers, within=60)
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.set()
        self._supervisor.join()
        family = psutil.Process(self._starter.pid).children(recursive=True)
        self._starter.terminate()  # to end by itself takes it a second
        for member in family:
            with suppress(psutil.NoSuchProcess):
                member.kill()
        psutil.wait_procs(family, timeout=10)
        self._starter.communicate(timeout=10)

    def answers(self) -> bool:
        """Whether the receiver answers."""
        with urlopen(f"http://127.0.0.1:{self.port}/healthz", timeout=2) as response:
            return bool(response.status == 200)

    def process(self, part: str) -> psutil.Process:
        """The part's current main process."""
        return self._processes[part]

    def pool(self, part: str) -> list[psutil.Process]:
        """The part's pool processes."""
        try:
            children: list[psutil.Process] = self.process(part).children()
        except psutil.NoSuchProcess:
            return []
        return children

    def kill(self, part: str) -> None:
        """Kill a part with SIGKILL; it is restarted."""
        with suppress(psutil.NoSuchProcess):
            self.process(part).kill()

    def terminate(self, part: str, within: float) -> float:
        """Stop a part with SIGTERM, without a restart; returns the seconds that it took.

        Raises:
            psutil.TimeoutExpired: it did not stop in time.
        """
        self._stopped.add(part)
        process = self.process(part)
        began = time.monotonic()
        process.terminate()
        process.wait(within)
        return time.monotonic() - began

    def resume(self, part: str) -> None:
        """Restart a part that :meth:`terminate` stopped."""
        self._stopped.discard(part)

    def arm(self, point: str) -> None:
        """Kill the next process that reaches the failpoint."""
        self._token(point).touch()

    def reached(self, point: str) -> bool:
        """Whether the failpoint has killed a process since :meth:`arm`."""
        return not self._token(point).exists()

    def log(self, part: str) -> str:
        """The part's log."""
        return (self.folder / f"{part}.log").read_text("utf-8", "replace")

    def _token(self, point: str) -> Path:
        return self.folder / f"{point}.armed"

    def _start(self, part: str) -> None:
        assert self._starter.stdin is not None
        assert self._starter.stdout is not None
        with self._starter_lock:
            print(part, self.folder / f"{part}.log", file=self._starter.stdin, flush=True)
            pid = int(self._starter.stdout.readline())
        self.starts[part] += 1
        try:
            self._processes[part] = psutil.Process(pid)
        except psutil.NoSuchProcess:  # it is dead already; the next poll restarts it
            self._processes.pop(part, None)

    def _supervise(self) -> None:
        while not self._closing.wait(_POLL_SECONDS):
            for part in self.starts:
                process = self._processes.get(part)
                if part not in self._stopped and (process is None or not process.is_running()):
                    self._start(part)


def _external_services(integrations: Integrations) -> Mapping[str, str]:
    variables = integrations.environment()
    virtualsms = {name: value for name, value in variables.items() if name.startswith("VIRTUALSMS")}
    return {
        **virtualsms,
        "VIRTUALSMS_RATE_LIMIT": "1000000",
        "DESTINATION_ALLOWED_HOSTS": variables["DESTINATION_ALLOWED_HOSTS"],
        "TEAM_URL": variables["SLACK_WEBHOOK_URL"],
        "TEAM_SECRET": "whsec_" + base64.b64encode(bytes(range(32))).decode(),
    }
