"""Cases 1 and 14: a thousand kills of random processes under load."""

from __future__ import annotations

import random
import time
from contextlib import suppress

import psutil
import pytest

from tests.faults.conftest import MakeScenario, Scenario
from tests.faults.profile import Tables
from tests.support.waiting import eventually
from worker.configuration.destination_policy import MAX_IN_FLIGHT_SINGLE

pytestmark = [pytest.mark.faults, pytest.mark.long, pytest.mark.timeout(7200)]

KILLS = 1000
PER_SECOND = 10.0
# The processes to kill, with their share in per cent.
VICTIMS = {"web": 30, "worker": 12, "worker pool": 23, "sender": 25, "beat": 5, "broker": 5}
# In seconds: the next kill comes before or after the last process has restarted.
LONGEST_PAUSE = 0.5


@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
def test_random_kills(
    make_scenario: MakeScenario, tables: Tables, scaled: float, database: str
) -> None:
    """Every event is acknowledged, handled, confirmed once and delivered."""
    chance = random.Random(database)
    scenario = make_scenario(postgresql=database == "postgresql")
    kills = dict.fromkeys(VICTIMS, 0)
    began = time.monotonic()
    with scenario.load.flowing(PER_SECOND):
        for _ in range(round(KILLS * scaled / 2)):
            time.sleep(chance.uniform(0, LONGEST_PAUSE))
            (victim,) = chance.choices(list(VICTIMS), list(VICTIMS.values()))
            _kill(scenario, victim, chance)
            kills[victim] += 1
    tally = scenario.tally()
    counts = ", ".join(f"{name} {number}" for name, number in kills.items())
    tables.add(
        f"{sum(kills.values())} kills in {time.monotonic() - began:.0f} s on {database}: {counts}; "
        f"requests without an acknowledgement: {sum(scenario.load.refused.values())}\n"
        f"{tally.table()}"
    )
    tally.verify(doubled_at_most=MAX_IN_FLIGHT_SINGLE * kills["sender"])


def _kill(scenario: Scenario, victim: str, chance: random.Random) -> None:
    if victim == "broker":
        scenario.broker.kill()
        scenario.broker.start()
    elif victim == "worker pool":
        processes = eventually(lambda: scenario.installation.pool("worker"), within=60)
        with suppress(psutil.NoSuchProcess):
            chance.choice(processes).kill()
    else:
        before = scenario.installation.starts[victim]
        scenario.installation.kill(victim)
        eventually(lambda: scenario.installation.starts[victim] > before, within=10)
