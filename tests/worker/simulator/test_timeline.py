"""The simulated providers' clock and timers."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta

import pytest

from tests.support.waiting import eventually
from worker.simulator.timeline import Timeline

NOON = datetime(2026, 6, 11, 12, tzinfo=UTC)


def test_due_actions_run_in_order_at_their_time() -> None:
    """The clock advances by hours at once, and each action sees its scheduled time."""
    timeline = Timeline(lambda: NOON)
    seen: list[tuple[str, datetime]] = []
    timeline.after(7200, lambda: seen.append(("late", timeline.now())))
    timeline.after(60, lambda: seen.append(("early", timeline.now())))
    timeline.advance(7200)
    assert seen == [("early", NOON + timedelta(minutes=1)), ("late", NOON + timedelta(hours=2))]
    assert timeline.now() == NOON + timedelta(hours=2)


def test_an_action_may_schedule_another() -> None:
    """A chain of actions runs up to the new time, and not beyond."""
    timeline = Timeline(lambda: NOON)
    seen: list[int] = []

    def again() -> None:
        seen.append(len(seen))
        timeline.after(10, again)

    timeline.after(10, again)
    timeline.advance(35)
    assert seen == [0, 1, 2]


def test_actions_run_in_real_time() -> None:
    """The timeline's thread runs a due action, even if a later one was scheduled first."""
    happened = threading.Event()
    with Timeline() as timeline:
        timeline.after(3600, lambda: pytest.fail("an hour has not passed"))
        timeline.after(0.01, happened.set)
        assert happened.wait(5)


def test_a_clock_that_jumps() -> None:
    """A clock passed in may jump without a notification; due actions still run."""
    moments = [NOON]
    happened = threading.Event()
    with Timeline(lambda: moments[-1]) as timeline:
        timeline.after(3600, happened.set)
        moments.append(NOON + timedelta(hours=2))
        assert eventually(happened.is_set, within=5)


def test_no_action_runs_after_the_end() -> None:
    """The end does not wait for scheduled actions."""
    happened = threading.Event()
    with Timeline() as timeline:
        timeline.after(0.05, happened.set)
    assert not happened.wait(0.1)
