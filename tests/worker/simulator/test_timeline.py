"""The providers' time."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta

import pytest

from tests.support.waiting import eventually
from worker.simulator.timeline import Timeline

NOON = datetime(2026, 6, 11, 12, tzinfo=UTC)


def test_what_is_due_happens_in_its_order_at_its_time() -> None:
    """Hours pass at once, and each thing sees the time it was planned for."""
    timeline = Timeline(lambda: NOON)
    seen: list[tuple[str, datetime]] = []
    timeline.after(7200, lambda: seen.append(("late", timeline.now())))
    timeline.after(60, lambda: seen.append(("early", timeline.now())))
    timeline.advance(7200)
    assert seen == [
        ("early", NOON + timedelta(minutes=1)),
        ("late", NOON + timedelta(hours=2)),
    ]
    assert timeline.now() == NOON + timedelta(hours=2)


def test_what_happens_may_plan_more() -> None:
    """A chain of things unfolds within one stretch of time, and no further."""
    timeline = Timeline(lambda: NOON)
    seen: list[int] = []

    def again() -> None:
        seen.append(len(seen))
        timeline.after(10, again)

    timeline.after(10, again)
    timeline.advance(35)
    assert seen == [0, 1, 2]


def test_time_passes_by_itself() -> None:
    """What is due happens in a thread of the timeline's own, also before what was planned first."""
    happened = threading.Event()
    with Timeline() as timeline:
        timeline.after(3600, lambda: pytest.fail("an hour has not passed"))
        timeline.after(0.01, happened.set)
        assert happened.wait(5)


def test_a_clock_that_jumps() -> None:
    """A clock that was handed in may go on without a word; what is due is found."""
    moments = [NOON]
    happened = threading.Event()
    with Timeline(lambda: moments[-1]) as timeline:
        timeline.after(3600, happened.set)
        moments.append(NOON + timedelta(hours=2))
        assert eventually(happened.is_set, within=5)


def test_nothing_happens_after_the_end() -> None:
    """The end does not wait for what is planned."""
    happened = threading.Event()
    with Timeline() as timeline:
        timeline.after(0.2, happened.set)
    assert not happened.wait(0.4)
