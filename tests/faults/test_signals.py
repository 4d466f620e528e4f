"""Rows 17 and 18: parts that are asked to stop, and parts that are frozen past their leases."""

from __future__ import annotations

import signal
import time

import pytest

from tests.faults.conftest import Make
from tests.faults.profile import Tables
from tests.faults.site import PARTS
from tests.support.http_server import Reply
from tests.support.waiting import eventually
from worker.outbox.leases import CALL_LEASE

pytestmark = [pytest.mark.faults, pytest.mark.long, pytest.mark.timeout(600)]

GONE_WITHIN = 30.0


@pytest.mark.parametrize("part", PARTS)
def test_sigterm_under_load(make_scene: Make, tables: Tables, part: str) -> None:
    """A part that is asked to stop is gone in time, and nothing in its hands is lost or doubled."""
    scene = make_scene()
    scene.load.send(1)
    scene.tally()  # every part has started by now
    scene.integrations.slack.on("POST", "/services/**", body=b"ok", hang=0.3)
    with scene.load.flowing(10):
        time.sleep(3)
        took = scene.site.terminate(part, GONE_WITHIN)
        scene.site.resume(part)
        time.sleep(3)
    tables.add(f"SIGTERM to {part}: gone after {took:.2f} s; refused {scene.load.refused}")
    # A webhook that comes while nobody listens meets a closed port; none is answered with a 503.
    assert set(scene.load.refused) <= {0}
    scene.tally().verify(doubled_at_most=0)


def test_a_sender_that_is_frozen_past_its_lease(make_scene: Make) -> None:
    """Its order is settled by another meanwhile: charged once, and what it writes late is void."""
    scene = make_scene()
    scene.load.send(1)
    scene.tally()
    hanging = Reply(json={"status": "confirmed"}, hang=1.0)
    scene.integrations.api.once("POST", "/api/v2/orders/*/confirm", hanging)
    (sent,) = scene.load.send(1)
    eventually(lambda: scene.integrations.confirmations(sent.order))
    frozen = scene.site.process("sender")
    frozen.send_signal(signal.SIGSTOP)
    try:
        time.sleep(2 * CALL_LEASE.total_seconds())
    finally:
        frozen.send_signal(signal.SIGCONT)
    scene.tally().verify(doubled_at_most=1)
