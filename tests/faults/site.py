"""An installation whose parts a test kills one by one, and which starts them again at once."""

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
_LOOK_SECONDS = 0.02
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


class Site:
    """Web, worker, sender and beat on a database and a broker, with everything outside faked.

    Whoever dies is started again, as a service manager does. Each of the failpoints ``points``
    kills the next process that passes it after :meth:`arm`.
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
        self._resting: set[str] = set()
        self._asking = threading.Lock()
        self._closing = threading.Event()
        self._keeper = threading.Thread(target=self._keep, name="keeper")
        armed = ",".join(f"{point}=kill@{self._token(point)}" for point in points)
        config = folder / "codecatch.toml"
        config.write_text(_DESTINATION)
        self._environment = {
            **os.environ,
            **_far_away(integrations),
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
        self._nursery = subprocess.Popen(
            leashed([sys.executable, "-m", "tests.faults.nursery"]),
            env=self._environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            cwd=Path(__file__).parents[2], start_new_session=True,
        )  # fmt: skip
        for part in self.starts:
            self._start(part)
        self._keeper.start()
        eventually(self.answers, within=60)
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.set()
        self._keeper.join()
        family = psutil.Process(self._nursery.pid).children(recursive=True)
        for member in family:
            with suppress(psutil.NoSuchProcess):
                member.kill()
        psutil.wait_procs(family, timeout=10)
        self._nursery.communicate(timeout=10)

    def answers(self) -> bool:
        """Whether the receiver is there."""
        with urlopen(f"http://127.0.0.1:{self.port}/healthz", timeout=2) as response:
            return bool(response.status == 200)

    def process(self, part: str) -> psutil.Process:
        """The part's main process, as it is now."""
        return self._processes[part]

    def pool(self, part: str) -> list[psutil.Process]:
        """The processes that the part has started for its work."""
        try:
            children: list[psutil.Process] = self.process(part).children()
        except psutil.NoSuchProcess:
            return []
        return children

    def kill(self, part: str) -> None:
        """End a part with SIGKILL, as a crash of it would; it is started again."""
        with suppress(psutil.NoSuchProcess):
            self.process(part).kill()

    def terminate(self, part: str, within: float) -> float:
        """Ask a part to stop, as a service manager does, and leave it stopped; how long it took.

        Raises:
            psutil.TimeoutExpired: it did not stop in time.
        """
        self._resting.add(part)
        process = self.process(part)
        began = time.monotonic()
        process.terminate()
        process.wait(within)
        return time.monotonic() - began

    def resume(self, part: str) -> None:
        """Start a part again that was asked to stop."""
        self._resting.discard(part)

    def arm(self, point: str) -> None:
        """Have the next process that passes the failpoint killed."""
        self._token(point).touch()

    def reached(self, point: str) -> bool:
        """Whether a process was killed there since :meth:`arm`."""
        return not self._token(point).exists()

    def log(self, part: str) -> str:
        """What the part has logged."""
        return (self.folder / f"{part}.log").read_text("utf-8", "replace")

    def _token(self, point: str) -> Path:
        return self.folder / f"{point}.armed"

    def _start(self, part: str) -> None:
        assert self._nursery.stdin is not None
        assert self._nursery.stdout is not None
        with self._asking:
            print(part, self.folder / f"{part}.log", file=self._nursery.stdin, flush=True)
            pid = int(self._nursery.stdout.readline())
        self.starts[part] += 1
        try:
            self._processes[part] = psutil.Process(pid)
        except psutil.NoSuchProcess:  # it died already, and is looked at again
            self._processes.pop(part, None)

    def _keep(self) -> None:
        while not self._closing.wait(_LOOK_SECONDS):
            for part in self.starts:
                process = self._processes.get(part)
                if part not in self._resting and (process is None or not process.is_running()):
                    self._start(part)


def _far_away(integrations: Integrations) -> Mapping[str, str]:
    ours = integrations.environment()
    kept = {name: value for name, value in ours.items() if name.startswith("VIRTUALSMS")}
    return {
        **kept,
        "VIRTUALSMS_RATE_LIMIT": "1000000",
        "DESTINATION_ALLOWED_HOSTS": ours["DESTINATION_ALLOWED_HOSTS"],
        "TEAM_URL": ours["SLACK_WEBHOOK_URL"],
        "TEAM_SECRET": "whsec_" + base64.b64encode(bytes(range(32))).decode(),
    }
