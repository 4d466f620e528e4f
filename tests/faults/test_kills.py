"""Rows 1 and 14: a thousand kills of random processes while events flow."""

from __future__ import annotations

import random
import time
from contextlib import suppress

import psutil
import pytest

from tests.faults.conftest import Make, Scene
from tests.faults.profile import Tables
from tests.support.waiting import eventually
from worker.configuration.destination_policy import IN_HAND_ALONE

pytestmark = [pytest.mark.faults, pytest.mark.long, pytest.mark.timeout(7200)]

KILLS = 1000
PER_SECOND = 10.0
# What dies, and how often in a hundred times.
VICTIMS = {"web": 30, "worker": 12, "worker pool": 23, "sender": 25, "beat": 5, "broker": 5}
# In seconds: the next victim dies before the last one is up again, or well after.
LONGEST_PAUSE = 0.5


@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
def test_random_kills(make_scene: Make, tables: Tables, scaled: float, database: str) -> None:
    """Every event is acknowledged, stored, handled, confirmed and told; none is charged twice."""
    chance = random.Random(database)
    scene = make_scene(postgresql=database == "postgresql")
    kills = dict.fromkeys(VICTIMS, 0)
    began = time.monotonic()
    with scene.load.flowing(PER_SECOND):
        for _ in range(round(KILLS * scaled / 2)):
            time.sleep(chance.uniform(0, LONGEST_PAUSE))
            (victim,) = chance.choices(list(VICTIMS), list(VICTIMS.values()))
            _kill(scene, victim, chance)
            kills[victim] += 1
    tally = scene.tally()
    told = ", ".join(f"{name} {number}" for name, number in kills.items())
    tables.add(
        f"{sum(kills.values())} kills in {time.monotonic() - began:.0f} s on {database}: {told}; "
        f"requests without an acknowledgement: {sum(scene.load.refused.values())}\n"
        f"{tally.table()}"
    )
    tally.verify(doubled_at_most=IN_HAND_ALONE * kills["sender"])


def _kill(scene: Scene, victim: str, chance: random.Random) -> None:
    if victim == "broker":
        scene.broker.kill()
        scene.broker.start()
    elif victim == "worker pool":
        processes = eventually(lambda: scene.site.pool("worker"), within=60)
        with suppress(psutil.NoSuchProcess):
            chance.choice(processes).kill()
    else:
        before = scene.site.starts[victim]
        scene.site.kill(victim)
        eventually(lambda: scene.site.starts[victim] > before, within=10)
