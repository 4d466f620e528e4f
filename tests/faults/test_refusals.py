"""Case 49: one refused code among many, and a sender that dies while it is looked for."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path

import pytest
from sqlalchemy import text

from receiver.database.engine import Database
from tests.faults import oracle
from tests.faults.conftest import MakeScenario
from tests.faults.load import CANARY
from tests.faults.profile import Tables
from tests.support.http_server import Reply, Request
from tests.support.waiting import eventually
from worker.destinations.slack import Slack

pytestmark = [pytest.mark.faults, pytest.mark.long, pytest.mark.timeout(240)]

CODES = 36
BAD = f"{CANARY}7"
CRASH = "deliveries.after_send"
# The whole message and the one as plain text were refused: the next message is a part.
PARTS_AFTER = 2
_CONFIG = """
[[destinations]]
name = "team"
kind = "slack"
url_env = "TEAM_URL"
per_second = 10.0
burst = 1
"""


@pytest.mark.parametrize("crash_after", ["refused", "taken"])
def test_a_crash_during_the_search_for_the_refused_code(
    make_scenario: MakeScenario, tmp_path: Path, tables: Tables, crash_after: str
) -> None:
    """All other codes arrive, once or marked; only the refused one is dead."""
    config = tmp_path / "slack.toml"
    config.write_text(_CONFIG)
    scenario = make_scenario(points=(CRASH,), CODECATCH_CONFIG=str(config))
    installation = scenario.installation
    taken: list[tuple[list[str], bool]] = []
    refused: list[int] = []

    crashes: list[str] = []

    def crash(outcome: str) -> None:
        if outcome == crash_after and len(refused) >= PARTS_AFTER and not crashes:
            crashes.append(outcome)
            installation.arm(CRASH)

    def answer(request: Request) -> Reply:
        message = json.dumps(request.json())
        codes = sorted(set(re.findall(rf"{CANARY}\d+", message)))
        if BAD in codes:
            crash("refused")
            refused.append(len(codes))
            return Reply(status=400, body=b"invalid_blocks")
        crash("taken")
        taken.append((codes, "repeated" in message))
        return Reply(body=b"ok")

    scenario.integrations.slack.on("POST", "/services/**", handler=answer)
    scenario.load.send(1)
    eventually(lambda: taken, within=30)
    installation.terminate("sender", 20)
    scenario.load.send(CODES - 1)
    eventually(lambda: _states(installation.database_url).total() == CODES, within=30)
    installation.resume("sender")
    oracle.settle(installation)

    assert installation.reached(CRASH)
    assert _states(installation.database_url) == {"done": CODES - 1, "dead": 1}
    arrived = Counter(code for codes, _ in taken for code in codes)
    assert set(arrived) == {sent.code for sent in scenario.load.sent} - {BAD}
    first = Counter(code for codes, repeated in taken if not repeated for code in codes)
    assert max(first.values()) == 1
    tables.add(
        f"{CODES} codes, one refused: {len(taken)} messages taken, {len(refused)} refused "
        f"(of {', '.join(map(str, refused))} codes), {arrived.total() - len(arrived)} codes "
        "repeated and marked"
    )
    # The message itself, its parts, and the one that the crash repeats.
    assert len(refused) + len(taken) <= 1 + 1 + Slack.max_extra_sends + 1


def _states(url: str) -> Counter[str]:
    """How many deliveries of codes are in each state."""
    database = Database(url, pool_size=1)
    with database.reading() as session:
        query = text("SELECT state FROM deliveries WHERE type = 'sms.received'")
        states = Counter(session.connection().scalars(query))
    database.dispose()
    return states
