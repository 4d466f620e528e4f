"""Case 47: many events, then a hundred restarts of the broker, without a growth in memory."""

from __future__ import annotations

import os
import time

import psutil
import pytest

from tests.faults import oracle
from tests.faults.conftest import MakeScenario, Scenario
from tests.faults.profile import Tables

# A million takes a day on two cores.
EVENTS = int(os.environ.get("SOAK_EVENTS", "5000"))
# Events before the first measurement, so that every process has filled its caches.
WARM_UP = 2_000
BATCH = 500
PER_SECOND_AT_LEAST = 2
RESTARTS = 100
GROWTH = 1.05
MEGABYTE = 1 << 20

pytestmark = [
    pytest.mark.faults,
    pytest.mark.long,
    pytest.mark.timeout(1200 + (WARM_UP + EVENTS) / PER_SECOND_AT_LEAST),
]


def test_events_cost_no_memory(make_scenario: MakeScenario, tables: Tables, scaled: float) -> None:
    """After the warm-up the memory of each process grows by less than 5 %."""
    scenario = make_scenario(postgresql=True)
    warm_up, events = round(WARM_UP * scaled), round(EVENTS * scaled)
    _send_and_settle(scenario, warm_up)
    before = _memory(scenario)
    began = time.monotonic()
    _send_and_settle(scenario, events)
    took = time.monotonic() - began
    between = _memory(scenario)
    for _ in range(round(RESTARTS * scaled)):
        scenario.broker.restart()
        _send_and_settle(scenario, 5)
    after = _memory(scenario)
    tables.add(
        f"{events} events in {took:.0f} s after {warm_up}, then {round(RESTARTS * scaled)} "
        "restarts of the broker; memory in MiB before, between and after:\n"
        + "\n".join(
            f"| {part} | {before[part] / MEGABYTE:.1f} | {between[part] / MEGABYTE:.1f} "
            f"| {after[part] / MEGABYTE:.1f} |"
            for part in before
        )
    )
    assert scenario.installation.starts == dict.fromkeys(scenario.installation.starts, 1)
    grown = {part for part in before if after[part] > before[part] * GROWTH}
    assert not grown


def _send_and_settle(scenario: Scenario, events: int) -> None:
    """Send events, wait until they are delivered, and drop the test's own records of them."""
    for start in range(0, events, BATCH):
        scenario.load.send(min(BATCH, events - start))
        oracle.settle(scenario.installation)
        scenario.load.sent.clear()
        scenario.integrations.slack.forget()
        scenario.integrations.api.forget()


def _memory(scenario: Scenario) -> dict[str, int]:
    """The resident memory of the processes of each part, in bytes."""
    found: dict[str, int] = {}
    for part in scenario.installation.starts:
        main: psutil.Process = scenario.installation.process(part)
        for number, process in enumerate([main, *scenario.installation.pool(part)]):
            found[f"{part} {number}" if number else part] = process.memory_info().rss
    return found
