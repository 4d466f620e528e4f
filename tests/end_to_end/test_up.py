"""`codecatch up` starts, monitors and stops every part."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.end_to_end.installation import Installation, Integrations
from tests.support import webhooks
from tests.support.ports import free_port
from tests.support.processes import leashed
from tests.support.waiting import eventually
from worker.processes.supervisor import PARTS

pytestmark = pytest.mark.xdist_group("up")


@pytest.fixture(scope="module")
def integrations() -> Iterator[Integrations]:
    """Fake external services."""
    with Integrations() as integrations:
        yield integrations


@pytest.fixture
def installation(integrations: Integrations, tmp_path: Path) -> Iterator[Installation]:
    """A running installation."""
    with Installation(tmp_path, integrations.environment()) as installation:
        yield installation


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
    """The process titles of the supervisor and its descendants, except the broker."""
    root = psutil.Process(installation.pid)
    titles = [title(each) for each in (root, *root.children(recursive=True))]
    return [shown for shown in titles if "valkey" not in shown]


def test_parts_are_separate_processes(installation: Installation) -> None:
    """Each part has its own process title, log lines with its name, and not the lock file."""
    assert {f"codecatch {part}" for part in (*PARTS, "up")} == set(process_titles(installation))
    for part in parts(installation).values():
        assert not [file.path for file in part.open_files() if file.path.endswith("/lock")]
    lines = [json.loads(line) for line in installation.output.splitlines() if line[0] == "{"]
    assert {"web", "worker", "sender"} <= {line["part"] for line in lines} <= {*PARTS, "up"}


@pytest.mark.timeout(180)
def test_a_part_that_dies_is_replaced(
    installation: Installation, integrations: Integrations
) -> None:
    """Each killed part, and the broker, is replaced by a new process that does its work."""
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
    assert installation.stop() == 0


def test_stopping_leaves_no_process(installation: Installation, integrations: Integrations) -> None:
    """SIGTERM stops all parts first and the broker last, and leaves no process."""
    family = psutil.Process(installation.pid).children(recursive=True)
    assert delivers(installation, integrations, "ord-stop", "604031")
    assert installation.stop() == 0
    assert psutil.wait_procs(family, timeout=10)[1] == []
    assert "broker_away" not in installation.output
    assert "Connection refused" not in installation.output


def test_packages_of_the_user_disturb_nothing(integrations: Integrations, tmp_path: Path) -> None:
    """A worker/ and a receiver/ in the working directory are never imported, restarts included."""
    for name in ("worker", "receiver"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(f"raise RuntimeError('the user's {name}')\n")
    with Installation(tmp_path, integrations.environment()) as installation:
        before = parts(installation)
        for part in before.values():
            part.kill()
        eventually(
            lambda: (
                (now := parts(installation)).keys() == before.keys()
                and all(now[name].pid != before[name].pid for name in before)
            ),
            within=30,
        )
        assert delivers(installation, integrations, "ord-user", "604032")
        assert "part.died" in installation.output
        assert "the user's" not in installation.output


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends orphaned processes")
def test_no_process_outlives_a_killed_supervisor(installation: Installation) -> None:
    """The kernel ends all processes, and the data directory can be used again."""
    family = psutil.Process(installation.pid).children(recursive=True)
    psutil.Process(installation.pid).kill()
    assert psutil.wait_procs(family, timeout=10)[1] == []
    installation.kill()  # only to reap it
    installation.start()


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"SPOOL_DIR": "/dev/null/spool"}, "codecatch: SPOOL_DIR: must be a writable directory"),
        ({"DAISYSIM_WEBHOOK_TOKENS": "short"}, "codecatch: DAISYSIM_WEBHOOK_TOKENS: must be"),
        ({"ADMIN_TOKEN": "short"}, "codecatch: ADMIN_TOKEN: must be"),
    ],
)
def test_a_failed_start_names_the_variable(
    tmp_path: Path, variables: dict[str, str], said: str
) -> None:
    """A bad setting in any process ends the start with one line that names the variable."""
    installation = Installation(tmp_path, {"PORT": str(free_port()), **variables})
    done = subprocess.run(
        leashed([sys.executable, "-m", "worker.cli", "up"]), cwd=tmp_path,
        env=installation.environment, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_the_admin_part_runs_with_a_token(integrations: Integrations, tmp_path: Path) -> None:
    """With ``ADMIN_TOKEN``, the admin part runs and serves metrics."""
    port, token = free_port(), "made-up-admin-token-0123456789"
    settings = {**integrations.environment(), "ADMIN_TOKEN": token, "ADMIN_PORT": str(port)}
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/metrics", headers={"Authorization": f"Bearer {token}"}
    )

    def scraped() -> bool:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return b"codecatch" in answer.read()

    with Installation(tmp_path, settings):
        assert eventually(scraped)


def test_several_processes_may_share_the_port(integrations: Integrations, tmp_path: Path) -> None:
    """The web part starts several processes on one port, and stops all of them."""
    settings = {**integrations.environment(), "WEB_CONCURRENCY": "2"}
    with Installation(tmp_path, settings) as installation:
        (web,) = [part for name, part in parts(installation).items() if name == "web"]
        family = web.children(recursive=True)
        assert len(family) >= 2
        assert delivers(installation, integrations, "ord-two", "604032")
        assert installation.stop() == 0
        assert psutil.wait_procs(family, timeout=10)[1] == []
