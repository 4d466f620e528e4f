"""Cases 17 and 18: SIGTERM to each part, and a part frozen past its leases."""

from __future__ import annotations

import signal
import time

import pytest

from tests.faults.conftest import MakeScenario
from tests.faults.installation import PARTS
from tests.faults.profile import Tables
from tests.support.http_server import Reply
from tests.support.waiting import eventually
from worker.outbox.leases import CALL_LEASE

pytestmark = [pytest.mark.faults, pytest.mark.long, pytest.mark.timeout(600)]

STOPS_WITHIN = 30.0


@pytest.mark.parametrize("part", PARTS)
def test_sigterm_under_load(make_scenario: MakeScenario, tables: Tables, part: str) -> None:
    """After SIGTERM a part stops in time, and its work is neither lost nor doubled."""
    scenario = make_scenario()
    scenario.load.send(1)
    scenario.tally()  # now every part has started
    scenario.integrations.slack.on("POST", "/services/**", body=b"ok", hang=0.3)
    with scenario.load.flowing(10):
        time.sleep(3)
        took = scenario.installation.terminate(part, STOPS_WITHIN)
        scenario.installation.resume(part)
        time.sleep(3)
    tables.add(f"SIGTERM to {part}: gone after {took:.2f} s; refused {scenario.load.refused}")
    # While no receiver runs, connections are refused; no webhook gets a 503.
    assert set(scenario.load.refused) <= {0}
    scenario.tally().verify(doubled_at_most=0)


def test_a_sender_that_is_frozen_past_its_lease(make_scenario: MakeScenario) -> None:
    """Another sender settles the order, which is charged once; the late write is rejected."""
    scenario = make_scenario()
    scenario.load.send(1)
    scenario.tally()
    hanging = Reply(json={"status": "confirmed"}, hang=1.0)
    scenario.integrations.api.once("POST", "/api/v2/orders/*/confirm", hanging)
    (sent,) = scenario.load.send(1)
    eventually(lambda: scenario.integrations.confirmations(sent.order))
    frozen = scenario.installation.process("sender")
    frozen.send_signal(signal.SIGSTOP)
    try:
        time.sleep(2 * CALL_LEASE.total_seconds())
    finally:
        frozen.send_signal(signal.SIGCONT)
    scenario.tally().verify(doubled_at_most=1)
