"""`codecatch up` starts, monitors and stops every part."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from urllib.request import urlopen

import psutil
import pytest

from tests.end_to_end.installation import Installation, Integrations
from tests.support import webhooks
from tests.support.processes import leashed
from tests.support.waiting import eventually
from worker.processes.supervisor import PARTS

pytestmark = pytest.mark.xdist_group("up")


@pytest.fixture(scope="module")
def integrations() -> Iterator[Integrations]:
    """Fake external services."""
    with Integrations() as integrations:
        yield integrations


def children(installation: Installation) -> list[psutil.Process]:
    """The supervisor's child processes."""
    found: list[psutil.Process] = psutil.Process(installation.pid).children()
    return found


def title(process: psutil.Process) -> str:
    """What ``ps`` shows for the process: after a title, psutil lists empty arguments."""
    return " ".join(filter(None, process.cmdline()))


def parts(installation: Installation) -> dict[str, psutil.Process]:
    """The running parts, by process name or by the name they were started with."""
    found = {}
    for child in children(installation):
        # Until a part that was started again has named itself, its command line names it.
        name = title(child).rpartition(" ")[2]
        if name in PARTS:
            found[name] = child
    return found


def delivers(installation: Installation, integrations: Integrations, order: str, code: str) -> bool:
    """Whether a webhook is accepted, its order confirmed and its code delivered."""
    webhook = webhooks.virtualsms_v1(order=order, code=code)
    assert eventually(lambda: installation.send(webhook), within=30).status in {200, 202}
    eventually(
        lambda: integrations.slack_deliveries(code) and integrations.confirmations(order), within=30
    )
    return True


def process_titles(installation: Installation) -> list[str]:
    """The titles of the supervisor and its descendants, but the broker and Python's tracker."""
    root = psutil.Process(installation.pid)
    titles = [title(each) for each in (root, *root.children(recursive=True))]
    return [shown for shown in titles if "valkey" not in shown and "resource_tracker" not in shown]


@pytest.mark.timeout(180)
def test_every_part_runs_and_stops(integrations: Integrations, tmp_path: Path) -> None:
    """Parts have their own title and log lines; SIGTERM stops the broker last, leaves no process.

    The web part may be several processes on one port.
    """
    settings = {**integrations.environment(), "WEB_CONCURRENCY": "2"}
    with Installation(tmp_path, settings) as installation:
        # A process of the web part names itself once it has imported its modules.
        expected = {f"codecatch {part}" for part in (*PARTS, "up")}
        eventually(lambda: set(process_titles(installation)) == expected, within=30)
        running = parts(installation)
        for part in running.values():
            assert not [file.path for file in part.open_files() if file.path.endswith("/lock")]
        assert len(running["web"].children()) >= 2
        lines = [json.loads(line) for line in installation.output.splitlines() if line[0] == "{"]
        assert {"web", "worker", "sender"} <= {line["part"] for line in lines} <= {*PARTS, "up"}

        family = psutil.Process(installation.pid).children(recursive=True)
        assert delivers(installation, integrations, "ord-stop", "604031")
        assert installation.stop() == 0
        assert psutil.wait_procs(family, timeout=10)[1] == []
        assert "broker_away" not in installation.output
        assert "Connection refused" not in installation.output


@pytest.mark.timeout(180)
def test_nobody_waits_for_a_reader_of_the_log(integrations: Integrations, tmp_path: Path) -> None:
    """With standard error full and unread, codes arrive, a dead part is replaced, up ends."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    with suppress(BlockingIOError):
        while True:
            os.write(writer, bytes(4096))
    os.set_blocking(writer, True)
    settings = {**integrations.environment(), "LOG_LEVEL": "DEBUG", "HOST": "::"}
    with Installation(tmp_path, settings, stderr=writer) as installation:
        os.close(writer)
        for host in ("127.0.0.1", "[::1]"):  # HOST=:: is every address, of IPv4 too
            with urlopen(f"http://{host}:{installation.port}/healthz", timeout=5) as answer:
                assert answer.status == 200
        assert delivers(installation, integrations, "ord-full", "604032")
        before = parts(installation)["sender"]
        before.kill()
        eventually(lambda: parts(installation).get("sender", before) != before, within=30)
        assert delivers(installation, integrations, "ord-full-2", "604033")
        assert installation.stop() == 0
    os.close(reader)


@pytest.mark.timeout(180)
def test_a_part_that_dies_is_replaced(integrations: Integrations, tmp_path: Path) -> None:
    """Each killed part, and the broker, is replaced by a new process that does its work.

    A worker/ and a receiver/ in the working directory are never imported.
    """
    for name in ("worker", "receiver"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(f"raise RuntimeError('the user's {name}')\n")
    with Installation(tmp_path, integrations.environment()) as installation:
        before = parts(installation)
        for child in children(installation):
            child.kill()
        eventually(
            lambda: (
                (now := parts(installation)).keys() == before.keys()
                and all(now[name].pid != before[name].pid for name in before)
            ),
            within=30,
        )
        assert delivers(installation, integrations, "ord-again", "604030")
        assert "part.died" in installation.output
        assert "the user's" not in installation.output
        assert installation.stop() == 0


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"DAISYSIM_WEBHOOK_TOKENS": "short"}, "codecatch: DAISYSIM_WEBHOOK_TOKENS: must be"),
        ({"ADMIN_TOKEN": "short"}, "codecatch: ADMIN_TOKEN: must be"),
    ],
)
def test_a_failed_start_names_the_variable(
    tmp_path: Path, variables: dict[str, str], said: str
) -> None:
    """A bad setting in any process ends the start with one line that names the variable."""
    installation = Installation(tmp_path, variables)
    done = subprocess.run(
        leashed([sys.executable, "-m", "worker.cli", "up"]), cwd=tmp_path,
        env=installation.environment, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert said in done.stderr
    assert "Traceback" not in done.stderr
