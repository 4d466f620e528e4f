"""Cases 20 and 22: the database crashes, kills sessions during commits, or is absent for long."""

from __future__ import annotations

import random
import time

import psycopg
import pytest

from tests.faults.conftest import MakeScenario
from tests.faults.load import percentile
from tests.faults.profile import Tables
from worker.configuration.destination_policy import MAX_IN_FLIGHT_SINGLE

pytestmark = [pytest.mark.faults, pytest.mark.long]

OUTAGE_SECONDS = 600.0
CRASHES = 20


@pytest.mark.timeout(3600)
def test_ten_minutes_without_a_database(
    make_scenario: MakeScenario, tables: Tables, scaled: float
) -> None:
    """Without a database every webhook gets 202 from the spool; later all are delivered."""
    scenario = make_scenario(postgresql=True)
    assert scenario.postgres is not None
    seconds = OUTAGE_SECONDS * scaled
    with scenario.load.flowing(10):
        time.sleep(5)
        scenario.postgres.stop()
        time.sleep(seconds)
        scenario.postgres.start()
        restarted = time.monotonic()
        time.sleep(5)
    tally = scenario.tally()
    tables.add(
        f"{seconds:.0f} s without database: refused {scenario.load.refused}, "
        f"slowest acknowledgement {percentile(scenario.load.sent, 100):.2f} s, all delivered "
        f"{time.monotonic() - restarted:.1f} s after its return\n{tally.table()}"
    )
    assert not scenario.load.refused
    assert {sent.status for sent in scenario.load.sent} == {"accepted"}
    # Messages sent but not yet recorded when the database stopped are sent again.
    tally.verify(doubled_at_most=MAX_IN_FLIGHT_SINGLE)


@pytest.mark.timeout(1800)
def test_crashes_of_the_database(
    make_scenario: MakeScenario, tables: Tables, scaled: float
) -> None:
    """PostgreSQL is restarted without a checkpoint, and its sessions are killed at random times."""
    chance = random.Random(20)
    scenario = make_scenario(postgresql=True)
    assert scenario.postgres is not None
    with scenario.load.flowing(20):
        for _ in range(max(1, round(CRASHES * scaled))):
            time.sleep(chance.uniform(0, 2))
            with psycopg.connect(scenario.postgres.url, autocommit=True) as connection:
                connection.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                    "WHERE pid <> pg_backend_pid() AND backend_type = 'client backend'"
                )
            time.sleep(chance.uniform(0, 2))
            scenario.postgres.restart()
    tally = scenario.tally()
    tables.add(f"crashes of PostgreSQL; refused {scenario.load.refused}\n{tally.table()}")
    # A failed record leaves the outcome of a delivery unknown, like a crash of the sender.
    tally.verify(doubled_at_most=2 * MAX_IN_FLIGHT_SINGLE * CRASHES)
