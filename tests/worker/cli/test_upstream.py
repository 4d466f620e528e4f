"""``codecatch upstream``: the simulator as a separate process."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from receiver.events import SmsReceived
from tests.support.http_server import HttpServer
from tests.support.processes import leashed
from tests.support.receiving import authentic
from tests.support.waiting import eventually
from tests.support.webhooks import SECRET, TOKEN
from tests.worker.cli.conftest import Run
from worker.http.client import HttpClient
from worker.providers.daisysim.api import DaisySIM
from worker.providers.virtualsms.api import VirtualSMS
from worker.runtime.installation import write_env
from worker.simulator.knobs import Knobs
from worker.simulator.server import Simulator

Start = Callable[..., "Running"]


class Running:
    """The command in a separate process, with its output."""

    def __init__(self, folder: Path, *words: str) -> None:
        folder.mkdir()
        self._out, self._err = folder / "out", folder / "err"
        environment = {**os.environ, "CODECATCH_DATA_DIR": str(folder.parent / "var")}
        with self._out.open("w") as out, self._err.open("w") as err:
            self.process = subprocess.Popen(
                leashed([sys.executable, "-m", "worker.cli", "upstream", "--port", "0", *words]),
                stdout=out,
                stderr=err,
                env=environment,
            )
        eventually(lambda: "is ready" in self.stdout or self.process.poll() is not None, within=30)
        assert self.process.poll() is None, self.stderr

    @property
    def stdout(self) -> str:
        """Its standard output so far."""
        return self._out.read_text()

    @property
    def stderr(self) -> str:
        """Its standard error so far."""
        return self._err.read_text()

    @property
    def exported(self) -> dict[str, str]:
        """The variables that its output exports."""
        return dict(re.findall(r"^  export ([A-Z_]+)=(\S+)$", self.stdout, re.MULTILINE))

    def stop(self, how: int = signal.SIGTERM) -> int:
        """Stop it with a signal; returns its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(how)
        return self.process.wait(20)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start the command in a data directory that a test's runs share."""
    with ExitStack() as stack:

        def begin(*words: str) -> Running:
            folder = tmp_path / f"run{len(list(tmp_path.glob('run*')))}"
            running = Running(folder, *words)
            stack.callback(running.stop)
            return running

        yield begin


def client(running: Running) -> HttpClient:
    """A client that may call the simulator."""
    host = running.exported["VIRTUALSMS_API_URL"].split("/")[2]
    return HttpClient(allowed_hosts=[host], plain_http_hosts=[host])


def test_printed_variables_are_sufficient(
    start: Start, http_server: HttpServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They suffice to buy from both providers and to verify their webhooks."""
    http_server.on("POST", "/webhooks/**", status=202)
    words = ("--webhook-url", http_server.url, "--sms-after", "0.2", "--seed", "7")
    running = start(*words, "--dialect", "v1")
    there = running.exported
    for name in ("VIRTUALSMS_WEBHOOK_SECRETS", "DAISYSIM_WEBHOOK_TOKENS"):
        monkeypatch.setenv(name, there[name])
    with closing(client(running)) as http:
        virtualsms = VirtualSMS(
            http, base_url=there["VIRTUALSMS_API_URL"], api_key=there["VIRTUALSMS_API_KEY"]
        )
        daisysim = DaisySIM(
            http, base_url=there["DAISYSIM_API_URL"], api_key=there["DAISYSIM_API_KEY"]
        )
        order = virtualsms.create_order("telegram", "GB").order_id
        bought = daisysim.purchase(187, "wa", daisysim.prices(187, "wa").tiers[0].price)
        code = virtualsms.wait_for_sms(order).code
        eventually(lambda: len(http_server.requests()) == 2)
    events = {
        e.order_id: e for e in map(authentic, http_server.requests()) if isinstance(e, SmsReceived)
    }
    assert set(events) == {order, bought.activation_id}
    assert events[order].code == code
    assert running.stop(signal.SIGINT) == 0
    with Simulator(Knobs(seed=7)) as again:
        assert again.virtualsms.create("telegram", "GB").order_id == order
    assert "with seed 7." in running.stdout
    assert "POST /api/v2/orders 201" in running.stdout
    assert code is not None
    assert code not in running.stdout + running.stderr
    assert "Traceback" not in running.stderr


def test_configured_secrets_are_used(start: Start, tmp_path: Path) -> None:
    """Secrets in the data directory sign the webhooks and are not printed."""
    (tmp_path / "var").mkdir()
    secrets = {"VIRTUALSMS_WEBHOOK_SECRETS": SECRET, "DAISYSIM_WEBHOOK_TOKENS": TOKEN}
    write_env(tmp_path / "var" / "secrets.env", secrets)
    running = start()
    assert re.search(r"with seed \d+\.$", running.stdout, re.MULTILINE)
    assert set(running.exported) == {
        "VIRTUALSMS_API_URL",
        "VIRTUALSMS_API_KEY",
        "DAISYSIM_API_URL",
        "DAISYSIM_API_KEY",
    }
    assert SECRET not in running.stdout
    assert TOKEN not in running.stdout


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--port", "70000"), "--port"),
        (("--drop", "1.5"), "--drop"),
        (("--drop", "nan"), "must be a number"),
        (("--latency", "nan"), "must be a number"),
        (("--clock-skew", "-inf"), "--clock-skew"),
        (("--balance", "much"), "an amount"),
        (("--dialect", "v9"), "must be one of: v2, v1, flat"),
        (("--webhook-url", "ftp://host"), "the receiver's URL"),
    ],
)
def test_invalid_options_are_wrong_usage(
    run_unconfigured: Run, words: tuple[str, ...], says: str
) -> None:
    """A value out of range ends with exit code 2 before the simulator listens."""
    answer = run_unconfigured("upstream", *words)
    assert answer.code == 2
    assert says in " ".join(answer.err.replace("│", " ").split())


def test_a_taken_port(run_unconfigured: Run) -> None:
    """It is reported with exit code 1."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        answer = run_unconfigured("upstream", "--port", str(port))
    assert answer.code == 1
    assert f"cannot listen on port {port}" in answer.err
