"""An installation run by ``codecatch up``, with fake external services."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Mapping
from contextlib import ExitStack, chdir, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any, Self
from unittest import mock

import psutil

from tests.support import webhooks
from tests.support.http_server import HttpServer, Reply, Request
from tests.support.ports import free_port
from tests.support.processes import leashed
from tests.support.smtp_server import SmtpServer
from tests.support.waiting import eventually
from tests.support.webhooks import Webhook
from worker.cli import main

API_KEY = "sk_live_made-up-0123456789"
DAISY_KEY = "daisy-made-up-0123456789"
MAILBOX = "team@example.com"
READY = "codecatch is ready"


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer of the receiver."""

    status: int
    content: Any


class Integrations:
    """Fake external services: the providers' APIs, Slack and a mail server."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self.api = self._stack.enter_context(HttpServer())
        self.slack = self._stack.enter_context(HttpServer())
        self.smtp = self._stack.enter_context(SmtpServer())
        self.codes: dict[str, str] = {}
        self.api.on("POST", "/api/v2/orders/*/confirm", handler=_confirmed)
        self.api.on("GET", "/api/v2/orders/*", handler=self._order)
        self.api.on("GET", "/daisy/check/*", handler=self._checked)
        self.slack.on("POST", "/services/**", body=b"ok")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def environment(self) -> dict[str, str]:
        """The environment variables that direct an installation to these services."""
        return {
            "VIRTUALSMS_WEBHOOK_SECRETS": webhooks.SECRET,
            "VIRTUALSMS_API_URL": f"{self.api.url}/api/v2",
            "VIRTUALSMS_API_KEY": API_KEY,
            "DAISYSIM_WEBHOOK_TOKENS": webhooks.TOKEN,
            "DAISYSIM_API_URL": f"{self.api.url}/daisy",
            "DAISYSIM_API_KEY": DAISY_KEY,
            "SLACK_WEBHOOK_URL": f"{self.slack.url}/services/T0/B0/made-up",
            "DESTINATION_ALLOWED_HOSTS": f"127.0.0.1:{self.slack.port}",
            "SMTP_URL": self.smtp.url,
            "EMAIL_FROM": "codecatch@example.com",
            "EMAIL_TO": MAILBOX,
        }

    def delivered_everywhere(self, code: str) -> bool:
        """Whether Slack and mail each got a code exactly once."""
        return self.slack_deliveries(code) == self.mail_deliveries(code) == 1

    def slack_deliveries(self, code: str) -> int:
        """How often Slack got ``code``, alone or with others in a message."""
        said = json.dumps({"text": code}).strip("{}")
        messages = [json.dumps(r.json()["blocks"]) for r in self.slack.requests("POST")]
        return sum(message.count(said) for message in messages)

    def repeated_in_slack(self) -> list[int]:
        """The number of notifications marked as repeated, for each message that has any."""
        messages = [json.dumps(r.json()["blocks"]) for r in self.slack.requests("POST")]
        return [count for count in (each.count("(repeated)") for each in messages) if count]

    def mail_deliveries(self, code: str) -> int:
        """How often mail got ``code``, alone or with others in a message."""
        texts = [mail.message.get_body(("plain",)) for mail in self.smtp.mails()]
        lines = [line for text in texts if text for line in text.get_content().splitlines()]
        return sum(line == code or line.startswith(f"code {code} ") for line in lines)

    def confirmations(self, order: str) -> list[Request]:
        """The calls that confirmed ``order``."""
        return self.api.requests("POST", f"/api/v2/orders/{order}/confirm")

    def _order(self, request: Request) -> Reply:
        order = request.path.rpartition("/")[2]
        status = "confirmed" if self.confirmations(order) else "received"
        return Reply(json={"order_id": order, "status": status})

    def _checked(self, request: Request) -> Reply:
        code = self.codes.get(request.path.rpartition("/")[2], webhooks.CODE)
        return Reply(json={"data": {"status": "Completed", "code": code}})


def _confirmed(request: Request) -> Reply:
    order = request.path.split("/")[-2]
    return Reply(json={"order_id": order, "status": "confirmed"})


class Installation:
    """``codecatch up`` in its own directory; :meth:`start` returns when it is ready."""

    def __init__(
        self,
        folder: Path,
        settings: Mapping[str, str],
        port: int | None = None,
        stderr: int | None = None,
    ) -> None:
        self.port = port or free_port()
        self.folder = folder
        self._settings = {"PORT": str(self.port), "LOG_FORMAT": "json", **settings}
        self._process: subprocess.Popen[bytes] | None = None
        self._log = folder / "up.log"
        self._stderr = stderr

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None and self._process.poll() is None:
            self.stop()

    @property
    def environment(self) -> dict[str, str]:
        """The environment of its processes and commands."""
        return {**os.environ, **self._settings}

    @property
    def pid(self) -> int:
        """The supervisor's process id."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start it and wait until it prints that it is ready."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                leashed([sys.executable, "-P", "-m", "worker.cli", "up"]),
                cwd=self.folder, env=self.environment, stdin=subprocess.DEVNULL,
                stdout=log, stderr=self._stderr or log, start_new_session=True,
            )  # fmt: skip
        before = self.output.count(READY)
        eventually(lambda: self._ready_count() > before, within=60)

    def _ready_count(self) -> int:
        assert self._process is not None
        assert self._process.poll() is None, self.output
        return self.output.count(READY)

    def kill(self) -> None:
        """Kill the supervisor with SIGKILL; the kernel ends all its descendants."""
        assert self._process is not None
        family = psutil.Process(self._process.pid).children(recursive=True)
        self._process.kill()
        if sys.platform != "linux":
            for member in family:
                member.kill()
        self._process.wait()
        assert psutil.wait_procs(family, timeout=10)[1] == []

    def stop(self) -> int:
        """Stop it with SIGTERM, as systemd does; returns its exit code."""
        assert self._process is not None
        self._process.terminate()
        return self._process.wait(30)

    @property
    def output(self) -> str:
        """Its standard output and its log."""
        return self._log.read_text("utf-8", "replace")

    def send(self, webhook: Webhook) -> Answer:
        """POST a webhook to the receiver."""
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}{webhook.path}", webhook.body, webhook.headers
        )
        try:
            with urllib.request.urlopen(request, timeout=15) as response:
                return Answer(response.status, json.load(response))
        except urllib.error.HTTPError as error:
            with error:
                return Answer(error.code, json.load(error))

    def terminal(self, *words: str, without: str) -> subprocess.CompletedProcess[str]:
        """Run a ``codecatch`` command as a person does, ``without`` one variable."""
        return subprocess.run(
            [sys.executable, "-m", "worker.cli", *words],
            cwd=self.folder,
            env={name: value for name, value in self.environment.items() if name != without},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def command(self, *words: str) -> tuple[int, str]:
        """Exit code and output of a command, which runs in this process: that is faster."""
        printed = StringIO()
        with (
            mock.patch.dict(os.environ, self.environment),
            chdir(self.folder),
            redirect_stdout(printed),
        ):
            try:
                main(list(words))
            except SystemExit as exited:
                return int(exited.code or 0), printed.getvalue()
        return 0, printed.getvalue()

    def json(self, *words: str) -> Any:
        """The output of a command with ``--json``."""
        return json.loads(self.command(*words, "--json")[1])

    def event(self, event_id: str, state: str) -> dict[str, Any]:
        """Wait until the event is in ``state``, and return it."""

        def find() -> dict[str, Any] | None:
            found: dict[str, Any] = self.json("events", "show", event_id)
            return found if found["state"] == state else None

        found = eventually(find, within=20, every=0.2)
        assert found is not None
        return found
