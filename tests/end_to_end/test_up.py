"""`codecatch up` as the one that starts, watches and stops every part."""

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
    """Stand-ins for everything that codecatch talks to."""
    with Integrations() as integrations:
        yield integrations


@pytest.fixture
def installation(integrations: Integrations, tmp_path: Path) -> Iterator[Installation]:
    """An installation that is ready."""
    with Installation(tmp_path, integrations.environment()) as installation:
        yield installation


def children(installation: Installation) -> list[psutil.Process]:
    """The processes that the supervisor has started."""
    found: list[psutil.Process] = psutil.Process(installation.pid).children()
    return found


def parts(installation: Installation) -> dict[str, psutil.Process]:
    """The parts that are there, by what each calls itself or was started as."""
    found = {}
    for child in children(installation):
        words = child.cmdline()
        name = words[-1] if words[-2:-1] == ["run"] else child.name()
        if name in PARTS:
            found[name] = child
    return found


def told(installation: Installation, integrations: Integrations, order: str, code: str) -> bool:
    """Whether a webhook is accepted, handled, confirmed and told."""
    webhook = webhooks.virtualsms_v1(order=order, code=code)
    assert eventually(lambda: installation.send(webhook), within=30).status in {200, 202}
    eventually(
        lambda: integrations.told_by_slack(code) and integrations.confirmations(order), within=30
    )
    return True


@pytest.mark.skipif(sys.platform != "linux", reason="parts have no names of their own here")
def test_parts_are_processes_of_their_own(installation: Installation) -> None:
    """Each has its name, a group that no Ctrl-C of the supervisor's reaches, and not its lock."""
    assert {child.name() for child in children(installation)} >= set(PARTS)
    for part in parts(installation).values():
        assert not [file.path for file in part.open_files() if file.path.endswith("/lock")]
    lines = [json.loads(line) for line in installation.output.splitlines() if line[0] == "{"]
    assert {"web", "worker", "sender"} <= {line["part"] for line in lines} <= {*PARTS, "up"}


@pytest.mark.timeout(180)
def test_a_part_that_dies_is_replaced(
    installation: Installation, integrations: Integrations
) -> None:
    """Each of them, and the broker: another process does its work, from a clean start."""
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
    assert told(installation, integrations, "ord-again", "604030")
    assert installation.stop() == 0


def test_nothing_is_left_when_it_was_stopped(
    installation: Installation, integrations: Integrations
) -> None:
    """Asked to stop, it waits for its parts; none of them had to do without the broker."""
    family = psutil.Process(installation.pid).children(recursive=True)
    assert told(installation, integrations, "ord-stop", "604031")
    assert installation.stop() == 0
    assert psutil.wait_procs(family, timeout=10)[1] == []
    assert "broker_away" not in installation.output
    assert "Connection refused" not in installation.output


@pytest.mark.skipif(sys.platform != "linux", reason="nothing ends them here")
def test_nothing_outlives_a_supervisor_that_was_killed(installation: Installation) -> None:
    """The kernel sees to it, and the next one finds the directory free."""
    family = psutil.Process(installation.pid).children(recursive=True)
    psutil.Process(installation.pid).kill()
    assert psutil.wait_procs(family, timeout=10)[1] == []
    installation.kill()  # which only takes note
    installation.start()


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"SPOOL_DIR": "/dev/null/spool"}, "codecatch: SPOOL_DIR: wants a directory"),
        ({"DAISYSIM_WEBHOOK_TOKENS": "short"}, "codecatch: DAISYSIM_WEBHOOK_TOKENS: wants"),
        ({"ADMIN_TOKEN": "short"}, "codecatch: ADMIN_TOKEN: wants"),
    ],
)
def test_a_start_that_cannot_work_says_why(
    tmp_path: Path, variables: dict[str, str], said: str
) -> None:
    """One line that names the variable, whichever process finds it; nothing is left running."""
    installation = Installation(tmp_path, {"PORT": str(free_port()), **variables})
    done = subprocess.run(
        leashed([sys.executable, "-m", "worker.cli", "up"]), cwd=tmp_path,
        env=installation.environment, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_the_admin_side_is_there_where_it_has_a_token(
    integrations: Integrations, tmp_path: Path
) -> None:
    """As a part like the others."""
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
    """The web part, itself forked, starts them; all end with it."""
    settings = {**integrations.environment(), "WEB_CONCURRENCY": "2"}
    with Installation(tmp_path, settings) as installation:
        (web,) = [part for name, part in parts(installation).items() if name == "web"]
        family = web.children(recursive=True)
        assert len(family) >= 2
        assert told(installation, integrations, "ord-two", "604032")
        assert installation.stop() == 0
        assert psutil.wait_procs(family, timeout=10)[1] == []
