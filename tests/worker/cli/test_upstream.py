"""``codecatch upstream``: the simulation as a process of its own."""

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
from worker.simulator.server import Upstream

Start = Callable[..., "Running"]


class Running:
    """The command in a process of its own, with what it has printed."""

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
        eventually(lambda: "is ready" in self.said or self.process.poll() is not None, within=30)
        assert self.process.poll() is None, self.complained

    @property
    def said(self) -> str:
        """Its standard output so far."""
        return self._out.read_text()

    @property
    def complained(self) -> str:
        """Its standard error so far."""
        return self._err.read_text()

    @property
    def exported(self) -> dict[str, str]:
        """The variables that it asks a person to export."""
        return dict(re.findall(r"^  export ([A-Z_]+)=(\S+)$", self.said, re.MULTILINE))

    def stop(self, how: int = signal.SIGTERM) -> int:
        """Ask it to stop; its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(how)
        return self.process.wait(20)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start the command, in an empty data directory that is shared by all of a test's."""
    with ExitStack() as stack:

        def begin(*words: str) -> Running:
            folder = tmp_path / f"run{len(list(tmp_path.glob('run*')))}"
            running = Running(folder, *words)
            stack.callback(running.stop)
            return running

        yield begin


def client(running: Running) -> HttpClient:
    """A client that may ask it."""
    host = running.exported["VIRTUALSMS_API_URL"].split("/")[2]
    return HttpClient(allowed_hosts=[host], plain_http_hosts=[host])


def test_from_nothing_to_a_code(
    start: Start, http_server: HttpServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it prints is all that is needed to buy from both and to know their webhooks."""
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
    with Upstream(Knobs(seed=7)) as again:
        assert again.virtualsms.create("telegram", "GB").order_id == order
    assert "with seed 7." in running.said
    assert "POST /api/v2/orders 201" in running.said
    assert code is not None
    assert code not in running.said + running.complained
    assert "Traceback" not in running.complained


def test_it_signs_as_the_installation_expects(start: Start, tmp_path: Path) -> None:
    """Where the data directory has secrets they are used, and not printed."""
    (tmp_path / "var").mkdir()
    secrets = {"VIRTUALSMS_WEBHOOK_SECRETS": SECRET, "DAISYSIM_WEBHOOK_TOKENS": TOKEN}
    write_env(tmp_path / "var" / "secrets.env", secrets)
    running = start()
    assert re.search(r"with seed \d+\.$", running.said, re.MULTILINE)
    assert set(running.exported) == {
        "VIRTUALSMS_API_URL",
        "VIRTUALSMS_API_KEY",
        "DAISYSIM_API_URL",
        "DAISYSIM_API_KEY",
    }
    assert SECRET not in running.said
    assert TOKEN not in running.said


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--port", "70000"), "--port"),
        (("--drop", "1.5"), "--drop"),
        (("--drop", "nan"), "wants a number"),
        (("--latency", "nan"), "wants a number"),
        (("--clock-skew", "-inf"), "--clock-skew"),
        (("--balance", "much"), "an amount"),
        (("--dialect", "v9"), "wants one of: v2, v1, flat"),
        (("--webhook-url", "ftp://host"), "wants http"),
    ],
)
def test_what_cannot_be_meant_is_wrong_usage(bare: Run, words: tuple[str, ...], says: str) -> None:
    """A value out of its range ends with exit code 2 before anything listens."""
    answer = bare("upstream", *words)
    assert answer.code == 2
    assert says in " ".join(answer.err.replace("│", " ").split())


def test_a_taken_port(bare: Run) -> None:
    """It says so and ends with exit code 1."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        answer = bare("upstream", "--port", str(port))
    assert answer.code == 1
    assert f"cannot listen on port {port}" in answer.err
