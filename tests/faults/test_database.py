"""Rows 20 and 22: a database that dies, breaks connections in mid-commit, and stays away."""

from __future__ import annotations

import random
import time

import psycopg
import pytest

from tests.faults.conftest import Make
from tests.faults.load import slowest
from tests.faults.profile import Tables
from worker.configuration.destination_policy import IN_HAND_ALONE

pytestmark = [pytest.mark.faults, pytest.mark.long]

OUTAGE_SECONDS = 600.0
CRASHES = 20


@pytest.mark.timeout(3600)
def test_ten_minutes_without_a_database(make_scene: Make, tables: Tables, scaled: float) -> None:
    """Every webhook gets 202 from the spool; afterwards all are handled and told."""
    scene = make_scene(postgresql=True)
    assert scene.postgres is not None
    seconds = OUTAGE_SECONDS * scaled
    with scene.load.flowing(10):
        time.sleep(5)
        scene.postgres.stop()
        time.sleep(seconds)
        scene.postgres.start()
        back = time.monotonic()
        time.sleep(5)
    tally = scene.tally()
    tables.add(
        f"{seconds:.0f} s without database: refused {scene.load.refused}, slowest acknowledgement "
        f"{slowest(scene.load.sent, 100):.2f} s, all told {time.monotonic() - back:.1f} s after "
        f"its return\n{tally.table()}"
    )
    assert not scene.load.refused
    assert {sent.status for sent in scene.load.sent} == {"accepted"}
    # What had been told and was not on record yet when it stopped is told again.
    tally.verify(doubled_at_most=IN_HAND_ALONE)


@pytest.mark.timeout(1800)
def test_crashes_of_the_database(make_scene: Make, tables: Tables, scaled: float) -> None:
    """It is restarted without a checkpoint, and its sessions are killed wherever they are."""
    chance = random.Random(20)
    scene = make_scene(postgresql=True)
    assert scene.postgres is not None
    with scene.load.flowing(20):
        for _ in range(max(1, round(CRASHES * scaled))):
            time.sleep(chance.uniform(0, 2))
            with psycopg.connect(scene.postgres.url, autocommit=True) as connection:
                connection.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                    "WHERE pid <> pg_backend_pid() AND backend_type = 'client backend'"
                )
            time.sleep(chance.uniform(0, 2))
            scene.postgres.restart()
    tally = scene.tally()
    tables.add(f"crashes of PostgreSQL; refused {scene.load.refused}\n{tally.table()}")
    # A record that the database did not take leaves a telling in doubt, as a crash would.
    tally.verify(doubled_at_most=2 * IN_HAND_ALONE * CRASHES)
