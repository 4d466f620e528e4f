"""Row 47: very many events, then a hundred restarts of the broker, and no more memory."""

from __future__ import annotations

import os
import time

import psutil
import pytest

from tests.faults import oracle
from tests.faults.conftest import Make, Scene
from tests.faults.profile import Tables

# A million takes a day on two cores.
EVENTS = int(os.environ.get("SOAK_EVENTS", "5000"))
# What comes before the first look, so that every process has met everything once.
WARM_UP = 2_000
AT_ONCE = 500
PER_SECOND_AT_LEAST = 2
RESTARTS = 100
GROWTH = 1.05
MEGABYTE = 1 << 20

pytestmark = [
    pytest.mark.faults,
    pytest.mark.long,
    pytest.mark.timeout(1200 + (WARM_UP + EVENTS) / PER_SECOND_AT_LEAST),
]


def test_events_cost_no_memory(make_scene: Make, tables: Tables, scaled: float) -> None:
    """After the warm-up no process grows by a twentieth, whatever it has handled since."""
    scene = make_scene(postgresql=True)
    warm_up, events = round(WARM_UP * scaled), round(EVENTS * scaled)
    _flow(scene, warm_up)
    before = _memory(scene)
    began = time.monotonic()
    _flow(scene, events)
    took = time.monotonic() - began
    between = _memory(scene)
    for _ in range(round(RESTARTS * scaled)):
        scene.broker.restart()
        _flow(scene, 5)
    after = _memory(scene)
    tables.add(
        f"{events} events in {took:.0f} s after {warm_up}, then {round(RESTARTS * scaled)} "
        "restarts of the broker; memory in MiB before, between and after:\n"
        + "\n".join(
            f"| {part} | {before[part] / MEGABYTE:.1f} | {between[part] / MEGABYTE:.1f} "
            f"| {after[part] / MEGABYTE:.1f} |"
            for part in before
        )
    )
    assert scene.site.starts == dict.fromkeys(scene.site.starts, 1)
    grown = {part for part in before if after[part] > before[part] * GROWTH}
    assert not grown


def _flow(scene: Scene, events: int) -> None:
    """Send so many events and wait until they are told; nobody but the site remembers them."""
    for start in range(0, events, AT_ONCE):
        scene.load.send(min(AT_ONCE, events - start))
        oracle.settle(scene.site)
        scene.load.sent.clear()
        scene.integrations.slack.forget()
        scene.integrations.api.forget()


def _memory(scene: Scene) -> dict[str, int]:
    """The resident memory of each part's processes, in bytes."""
    found: dict[str, int] = {}
    for part in scene.site.starts:
        main: psutil.Process = scene.site.process(part)
        for number, process in enumerate([main, *scene.site.pool(part)]):
            found[f"{part} {number}" if number else part] = process.memory_info().rss
    return found
