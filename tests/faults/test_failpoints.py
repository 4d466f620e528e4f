"""Cases 1 to 3, 14 and 15: a crash at every failpoint between two effects."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests.faults.conftest import MakeScenario, Scenario
from tests.faults.process_starter import AFTER_POP, EVENT_LEASE
from tests.support.waiting import eventually
from worker.configuration.destination_policy import MAX_IN_FLIGHT_SINGLE

pytestmark = [pytest.mark.faults, pytest.mark.timeout(240)]

# The failpoints of a round are armed together: they are in different processes. Those after which a
# call's lease must expire come first, so that it expires while the others are tested.
ROUNDS = (
    ("group_commit.before_commit", "events.after_claim", "confirmations.after_claim"),
    ("group_commit.after_commit", "events.before_commit", "confirmations.after_call"),
    ("wake.before_send", "deliveries.after_claim"),
    ("events.after_commit", "deliveries.after_send"),
    ("wake.after_send", "confirmations.after_record"),
    (AFTER_POP, "deliveries.after_record"),
    ("sweep.after_claim",),
)
WITHOUT_DATABASE = ("spool.before_commit", "spool.after_commit")
AFTER_OUTAGE = "drain.after_store"
POINTS = (*(point for points in ROUNDS for point in points), *WITHOUT_DATABASE, AFTER_OUTAGE)
# Tested in worker/maintenance/test_key_rotation.py and worker/confirmation/test_confirm.py.
ELSEWHERE = ("rotation.after_batch", "confirmations.before_call")
_ROOT = Path(__file__).parents[2]


def test_a_crash_at_every_point_loses_and_doubles_nothing(make_scenario: MakeScenario) -> None:
    """After a kill at each failpoint under load, every event is handled and delivered once."""
    scenario = make_scenario(postgresql=True, points=POINTS, **{EVENT_LEASE: "1"})
    for points in ROUNDS:
        _crash(scenario, *points)
        if "group_commit.after_commit" in points:
            # Case 2: the event is stored, so its repetition after the lost answer is a duplicate.
            assert "duplicate" in {sent.status for sent in scenario.load.sent}
    assert scenario.postgres is not None
    scenario.postgres.stop()
    for point in WITHOUT_DATABASE:
        _crash(scenario, point)
    scenario.installation.arm(AFTER_OUTAGE)
    scenario.postgres.start()
    eventually(lambda: scenario.installation.reached(AFTER_OUTAGE), within=30)
    tally = scenario.tally()
    # A sender that dies between sending and recording causes a repetition.
    assert tally.doubled_notifications >= 1
    # Each kill of the sender may repeat the messages in flight.
    tally.verify(doubled_at_most=MAX_IN_FLIGHT_SINGLE * scenario.installation.starts["sender"])


def test_every_failpoint_is_tested() -> None:
    """The failpoints in the code are exactly those that the tests use."""
    found = [
        str(node.args[0].value)
        for package in ("receiver", "worker")
        for path in (_ROOT / package).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id == "reach"
        and isinstance(node.args[0], ast.Constant)
    ]
    assert sorted([*found, AFTER_POP]) == sorted([*POINTS, *ELSEWHERE])


def _crash(scenario: Scenario, *points: str) -> None:
    """Send events until each of the failpoints has killed a process."""
    for point in points:
        scenario.installation.arm(point)

    def reached() -> bool:
        scenario.load.send(1)
        return all(map(scenario.installation.reached, points))

    try:
        eventually(reached, within=60, every=0.2)
    except AssertionError as error:
        error.add_note(
            f"not reached: {[p for p in points if not scenario.installation.reached(p)]}"
        )
        raise
