"""Rows 1 to 3, 14 and 15: a crash at every step where it splits two effects."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests.faults.conftest import Make, Scene
from tests.faults.nursery import AFTER_POP
from tests.support.waiting import eventually
from worker.configuration.destination_policy import IN_HAND_ALONE

pytestmark = [pytest.mark.faults, pytest.mark.timeout(240)]

# One of each row at a time: they lie in different processes.
ROUNDS = (
    ("group_commit.before_commit", "events.after_claim", "confirmations.after_claim"),
    ("group_commit.after_commit", "events.before_commit", "confirmations.after_call"),
    ("wake.before_send", "confirmations.after_record"),
    ("events.after_commit", "deliveries.after_claim"),
    ("wake.after_send", "deliveries.after_send"),
    (AFTER_POP, "deliveries.after_record"),
    ("sweep.after_claim",),
)
WITHOUT_DATABASE = ("spool.before_commit", "spool.after_commit")
WITH_IT_AGAIN = "drain.after_store"
POINTS = (*(point for points in ROUNDS for point in points), *WITHOUT_DATABASE, WITH_IT_AGAIN)
# Where another test provokes the crash: tests/worker/test_rotation.py.
ELSEWHERE = ("rotation.after_batch",)
_ROOT = Path(__file__).parents[2]


def test_a_crash_at_every_point_loses_and_doubles_nothing(make_scene: Make) -> None:
    """Killed at each point by turns under events: all are stored, handled and told, each once."""
    scene = make_scene(postgresql=True, points=POINTS)
    for points in ROUNDS:
        _crash(scene, *points)
        if "group_commit.after_commit" in points:
            # Row 2: stored, and the repeat of what was never answered is known as such.
            assert "duplicate" in {sent.status for sent in scene.load.sent}
    assert scene.postgres is not None
    scene.postgres.stop()
    for point in WITHOUT_DATABASE:
        _crash(scene, point)
    scene.site.arm(WITH_IT_AGAIN)
    scene.postgres.start()
    eventually(lambda: scene.site.reached(WITH_IT_AGAIN), within=30)
    tally = scene.tally()
    # Where the sender dies between sending and record, the message is told again.
    assert tally.doubled_notifications >= 1
    # Each kill of the sender may double what it was telling.
    tally.verify(doubled_at_most=IN_HAND_ALONE * scene.site.starts["sender"])


def test_every_failpoint_is_reached_here() -> None:
    """A failpoint that no crash is provoked at would be a promise that nobody keeps."""
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


def _crash(scene: Scene, *points: str) -> None:
    """Send events until a process was killed at each of the points."""
    for point in points:
        scene.site.arm(point)

    def reached() -> bool:
        scene.load.send(1)
        return all(map(scene.site.reached, points))

    try:
        eventually(reached, within=60, every=0.5)
    except AssertionError as error:
        error.add_note(f"not reached: {[p for p in points if not scene.site.reached(p)]}")
        raise
