"""Cases 48, 52 and 60: a database that takes no writes, or is frozen; a spool that cannot be used.

Each test runs a real receiver; the troubles come and go while it runs.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import urlopen

import psycopg
import pytest

from receiver.inbox import spool
from tests.faults import oracle
from tests.faults.conftest import MakeScenario, Scenario
from tests.faults.load import Sent
from tests.support.waiting import eventually

pytestmark = [pytest.mark.faults, pytest.mark.timeout(120)]

# What an administrator may do, and how it is undone.
TROUBLES = {
    "read-only": (
        ("ALTER SYSTEM SET default_transaction_read_only = on", "SELECT pg_reload_conf()"),
        ("ALTER SYSTEM RESET default_transaction_read_only", "SELECT pg_reload_conf()"),
    ),
    "a table is missing": (
        ("ALTER TABLE inbox_events RENAME TO away",),
        ("ALTER TABLE away RENAME TO inbox_events",),
    ),
    "a right is missing": (
        ("REVOKE INSERT ON inbox_events FROM part",),
        ("GRANT INSERT ON inbox_events TO part",),
    ),
}


def ready(scenario: Scenario) -> tuple[int, Any]:
    """The answer of ``/readyz``."""
    try:
        with urlopen(f"http://127.0.0.1:{scenario.installation.port}/readyz", timeout=5) as answer:
            return answer.status, json.load(answer)
    except HTTPError as error:
        with error:
            return error.code, json.load(error)


def database_is(scenario: Scenario, state: str) -> Callable[[], bool]:
    """Whether ``/readyz`` calls the database so."""
    return lambda: ready(scenario)[1]["parts"]["database"] == state


def execute(scenario: Scenario, *statements: str) -> None:
    """Run statements as the superuser, whatever the server's default is."""
    assert scenario.postgres is not None
    name = scenario.installation.database_url.rpartition("/")[2]
    options = "-c default_transaction_read_only=off"
    with psycopg.connect(
        scenario.postgres.url_of(name), autocommit=True, options=options
    ) as connection:
        for each in statements:
            connection.execute(each)


@contextmanager
def troubled(scenario: Scenario, name: str) -> Iterator[None]:
    """The trouble lasts as long as the block."""
    begin, end = TROUBLES[name]
    execute(scenario, *begin)
    try:
        eventually(database_is(scenario, name), within=10)
        yield
    finally:
        execute(scenario, *end)


def accepted(scenario: Scenario, sent: Sent) -> bool:
    """Whether the event is accepted now."""
    return scenario.load.attempt(sent) == 202


def begin(scenario: Scenario, sent: Sent) -> HTTPConnection:
    """Send an event, and do not wait for the answer."""
    connection = HTTPConnection("127.0.0.1", scenario.installation.port, timeout=30)
    connection.request("POST", sent.webhook.path, sent.webhook.body, sent.webhook.headers)
    return connection


def doctor(scenario: Scenario, tmp_path: Path) -> str:
    """What ``codecatch doctor`` prints."""
    environment = {
        **os.environ,
        **scenario.installation.environment,
        "CODECATCH_DATA_DIR": str(tmp_path / "none"),
    }
    return subprocess.run(
        [sys.executable, "-m", "worker.cli", "doctor"],
        env=environment, capture_output=True, text=True, check=False, timeout=60,
    ).stdout  # fmt: skip


def test_a_database_that_takes_no_writes_spools(
    make_scenario: MakeScenario, tmp_path: Path
) -> None:
    """Case 48: 202 from the spool, degraded with the reason, drained without a restart."""
    scenario = make_scenario(postgresql=True, restricted=True, parts=("web",))
    installation = scenario.installation
    assert ready(scenario)[1]["parts"]["database"] == "ok"
    for name in TROUBLES:
        with troubled(scenario, name):
            scenario.load.send(5)
            status, answer = ready(scenario)
            assert (status, answer["status"]) == (200, "degraded"), name
            assert spool.depth(installation.spool) == 5, name
            if name == "read-only":
                assert f"nothing can be stored: {name}" in doctor(scenario, tmp_path)
        eventually(lambda: spool.depth(installation.spool) == 0, within=15)
        eventually(database_is(scenario, "ok"), within=15)
    scenario.load.send(1)
    assert not scenario.load.refused
    assert {sent.event_id for sent in scenario.load.sent} == oracle.stored(installation)
    assert installation.starts["web"] == 1


def test_without_a_spool_it_refuses(make_scenario: MakeScenario) -> None:
    """Case 48: 503 and unready, and 202 again when it takes writes."""
    scenario = make_scenario(postgresql=True, restricted=True, parts=("web",), SPOOL_DIR="")
    for number, name in enumerate(TROUBLES, 1):
        with troubled(scenario, name):
            sent = scenario.load.new()
            assert scenario.load.attempt(sent) == 503, name
            assert (ready(scenario)[0], ready(scenario)[1]["status"]) == (503, "unready")
        eventually(partial(accepted, scenario, sent), within=15)
        assert len(oracle.stored(scenario.installation)) == number


@pytest.mark.parametrize("with_spool", [True, pytest.param(False, marks=pytest.mark.long)])
def test_a_receiver_stops_while_the_database_is_frozen(
    make_scenario: MakeScenario, with_spool: bool
) -> None:
    """Case 52: with refusals and events waiting, it is gone within 15 seconds."""
    without = {} if with_spool else {"SPOOL_DIR": ""}
    scenario = make_scenario(postgresql=True, parts=("web",), **without)
    assert scenario.postgres is not None
    scenario.load.send(1)
    scenario.postgres.freeze()
    try:
        assert ready(scenario)[1]["parts"]["database"] == "away"
        forged = scenario.load.new()
        forged.webhook = replace(forged.webhook, headers={})
        assert scenario.load.attempt(forged) == 401
        waiting = [begin(scenario, scenario.load.new()) for _ in range(3)]
        took = scenario.installation.terminate("web", within=30)
        statuses = {each.getresponse().status for each in waiting}
        for each in waiting:
            each.close()
    finally:
        scenario.postgres.thaw()
    assert took < 15
    assert statuses == {202 if with_spool else 503}


def test_a_spool_that_cannot_be_used_at_the_start(
    make_scenario: MakeScenario, tmp_path: Path
) -> None:
    """Case 60: the receiver starts and complains; it uses the spool once it can, unaided."""
    folder = tmp_path / "taken"
    folder.write_text("a file is in its place")
    scenario = make_scenario(
        postgresql=True, parts=("web",), SPOOL_DIR=str(folder), FAULTS_REOPEN_SECONDS="0.5"
    )
    assert scenario.postgres is not None
    status, answer = ready(scenario)
    assert (status, answer["status"]) == (200, "degraded")
    assert "SPOOL_DIR" in answer["parts"]["spool"]
    assert "spool.not_opened" in scenario.installation.log("web")
    assert "SPOOL_DIR: nothing can be written there" in doctor(scenario, tmp_path)
    scenario.load.send(1)
    folder.unlink()
    eventually(lambda: "spool" not in ready(scenario)[1]["parts"], within=20)
    scenario.postgres.stop()
    scenario.load.send(5)
    scenario.postgres.start()
    eventually(lambda: spool.depth(folder) == 0, within=20)
    assert set(scenario.load.refused) <= {503}
    assert {sent.event_id for sent in scenario.load.sent} == oracle.stored(scenario.installation)


def test_a_file_that_may_not_grow_is_a_full_disk(make_scenario: MakeScenario) -> None:
    """Case 60: EFBIG, as EDQUOT, gives 503 while it lasts; the receiver is not restarted."""
    scenario = make_scenario(parts=("web",), LOG_LEVEL="error")
    scenario.load.send(200)
    process = scenario.installation.process("web")
    process.rlimit(resource.RLIMIT_FSIZE, (16_384, resource.RLIM_INFINITY))
    sent = scenario.load.new()
    assert scenario.load.attempt(sent) == 503
    eventually(lambda: ready(scenario)[0] == 503, within=10)
    assert "full" in ready(scenario)[1]["parts"]["database"]
    process.rlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    eventually(lambda: scenario.load.attempt(sent) in {200, 202}, within=15)
    eventually(lambda: ready(scenario)[1]["parts"]["database"] == "ok", within=15)
    assert set(scenario.load.refused) == {503}
    assert scenario.installation.starts["web"] == 1
