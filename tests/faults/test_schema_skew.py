"""Case 58: parts that meet a schema which does not fit them, at the start and while they run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest
from sqlalchemy import text

from receiver.database.engine import Database
from tests.faults import oracle
from tests.faults.conftest import MakeScenario, Scenario
from tests.support.ports import free_port
from tests.support.waiting import eventually

pytestmark = [pytest.mark.faults, pytest.mark.timeout(120)]


def execute(scenario: Scenario, statement: str) -> None:
    """Change the schema's version, as another release does."""
    database = Database(scenario.installation.database_url)
    with database.transaction() as session:
        session.execute(text(statement))
    database.dispose()


def status(scenario: Scenario) -> str:
    """The status that ``/readyz`` answers."""
    try:
        with urlopen(f"http://127.0.0.1:{scenario.installation.port}/readyz", timeout=5) as answer:
            return str(json.load(answer)["status"])
    except HTTPError as error:
        with error:
            return str(json.load(error)["status"])


def start(scenario: Scenario, part: str) -> subprocess.CompletedProcess[str]:
    """Start a part; it must end by itself."""
    environment = {
        **os.environ,
        **scenario.installation.environment,
        "ADMIN_PORT": str(free_port()),
        "ADMIN_TOKEN": "made-up-admin-token",
    }
    return subprocess.run(
        [sys.executable, "-m", "worker.cli", "run", part],
        env=environment, capture_output=True, text=True, check=False, timeout=30,
    )  # fmt: skip


@pytest.mark.long
def test_a_schema_that_needs_a_newer_release(make_scenario: MakeScenario) -> None:
    """No part starts; those that run become unready with one line, and go on afterwards."""
    scenario = make_scenario()
    installation = scenario.installation
    scenario.load.send(2)
    oracle.settle(installation)
    eventually(lambda: status(scenario) == "ok", within=20)
    execute(scenario, "INSERT INTO schema_requirements VALUES ('0099', 99)")
    eventually(lambda: status(scenario) == "unready", within=15)
    running = ("web", "worker", "sender")
    eventually(
        lambda: all("schema.does_not_fit" in installation.log(part) for part in running), within=20
    )
    for part in (*running, "admin"):
        refused = start(scenario, part)
        assert refused.returncode != 0, part
        assert "upgrade codecatch" in refused.stderr, part
        assert "Traceback" not in refused.stderr, part
        assert len(refused.stderr.splitlines()) == 1, refused.stderr
    scenario.load.send(2)
    execute(scenario, "DELETE FROM schema_requirements WHERE revision = '0099'")
    eventually(lambda: status(scenario) == "ok", within=30)
    scenario.tally().verify(doubled_at_most=0)
    for part in running:
        log = installation.log(part)
        assert "Traceback" not in log
        assert log.count("schema.does_not_fit") <= len(installation.pool(part)) + 1
    assert set(installation.starts.values()) == {1}


def test_a_schema_that_is_too_old(make_scenario: MakeScenario) -> None:
    """A part refuses to start, and says how to migrate."""
    scenario = make_scenario(parts=("web",))
    scenario.load.send(1)
    execute(scenario, "UPDATE alembic_version SET version_num = '0007'")
    refused = start(scenario, "web")
    assert refused.returncode != 0
    assert "run codecatch migrate" in refused.stderr
    eventually(lambda: status(scenario) == "unready", within=15)
