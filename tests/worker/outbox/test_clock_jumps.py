"""A clock that is set back delays no work, and one that is set ahead erases nothing."""

from __future__ import annotations

import time
from datetime import datetime, timedelta

import pytest

from receiver import clock
from receiver.database.engine import Database
from tests.support import webhooks
from tests.support.http_server import Reply
from tests.worker.delivery.senders import deliver_ids
from tests.worker.support import (
    CONFIRM_PATH,
    HOUR,
    SECOND,
    SLACK_PATH,
    World,
    all_rows,
    handle,
    only_row,
)
from worker.confirmation.confirm import settle
from worker.outbox import clock_jumps
from worker.outbox.clock_jumps import LONGEST_HOLD
from worker.outbox.sweep import sweep
from worker.runtime.runtime import Runtime, process
from worker.schema.models import Code, Confirmation, Delivery
from worker.tasks import celery_app, tasks

DAY = 24 * HOUR
pytestmark = pytest.mark.both_databases


class Clock:
    """The clock of the database, which a test sets; every sweep comes a second later."""

    def __init__(self, runtime: Runtime) -> None:
        self._began = clock.now() - timedelta(seconds=time.monotonic())
        self._runtime = runtime

    @property
    def at(self) -> datetime:
        """The time."""
        return self._began + timedelta(seconds=time.monotonic())

    def set(self, jump: timedelta) -> None:
        """Set the clock ahead, or back."""
        self._began += jump

    def sweep(self, jump: timedelta = timedelta()) -> None:
        """Set the clock, and sweep."""
        self.set(jump + SECOND)
        sweep(self._runtime.database, self._runtime.waker)

    @property
    def hold(self) -> timedelta | None:
        """For how long nothing is erased."""
        with self._runtime.database.reading() as session:
            until = clock_jumps.held_until(session, self.at)
        return None if until is None else until - self.at


@pytest.fixture
def runtime(world: World) -> Runtime:
    """A worker that delivers and confirms."""
    world.api.on("POST", CONFIRM_PATH, json={"order_id": webhooks.ORDER, "status": "confirmed"})
    return world.connect(virtualsms=True, slack=True)


@pytest.fixture
def host_clock(runtime: Runtime, monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock from which all times come, after a first sweep."""
    ours = Clock(runtime)
    monkeypatch.setattr(Database, "now", lambda *_: ours.at)
    monkeypatch.setattr(process, "get", lambda: runtime)
    ours.sweep()
    return ours


def work(runtime: Runtime) -> None:
    """Deliver and confirm what is due."""
    deliver_ids(runtime, [row.id for row in all_rows(runtime, Delivery)])
    settle(runtime, [row.id for row in all_rows(runtime, Confirmation)])


def test_a_clock_set_back_delays_nothing(world: World, runtime: Runtime, host_clock: Clock) -> None:
    """What waits, or is blocked, until a time of the other clock is due after the next sweep."""
    host_clock.sweep(3 * HOUR)
    world.slack.once("POST", SLACK_PATH, Reply(status=429, headers={"Retry-After": "30"}))
    world.api.once("POST", CONFIRM_PATH, Reply(status=429, headers={"Retry-After": "30"}))
    handle(runtime, webhooks.virtualsms_v1())
    work(runtime)
    assert only_row(runtime, Delivery).state == only_row(runtime, Confirmation).state == "pending"

    host_clock.set(-3 * HOUR)
    work(runtime)
    assert only_row(runtime, Delivery).state == only_row(runtime, Confirmation).state == "pending"
    host_clock.sweep()
    work(runtime)
    assert only_row(runtime, Delivery).state == "done"
    assert only_row(runtime, Confirmation).state == "done"


def test_a_clock_set_ahead_erases_nothing(runtime: Runtime, host_clock: Clock) -> None:
    """Not before somebody had a day to set it right; then everything is as before."""
    handle(runtime, webhooks.virtualsms_v1())
    work(runtime)
    for jump in (40 * DAY, 75 * SECOND, -40 * DAY):
        host_clock.sweep(jump)
        tasks.purge()
        assert only_row(runtime, Code).code is not None
    assert host_clock.hold is None


def test_time_that_passes_erases_what_is_due(runtime: Runtime, host_clock: Clock) -> None:
    """With sweeps all the time, or a day after a long pause, retention works."""
    handle(runtime, webhooks.virtualsms_v1())
    work(runtime)
    host_clock.sweep(runtime.retention.retention_codes + HOUR)
    for _ in range(30):
        host_clock.sweep(HOUR - 2 * SECOND)
    assert host_clock.hold is None
    tasks.purge()
    assert only_row(runtime, Code).code is None


@pytest.mark.parametrize(
    ("jump", "hold"),
    [
        (HOUR / 2, None),
        (2 * HOUR, 2 * HOUR),
        (40 * DAY, LONGEST_HOLD),
        (-30 * SECOND, None),
        (-40 * DAY, None),
    ],
)
def test_nothing_is_erased_for_as_long_as_the_jump(
    host_clock: Clock, jump: timedelta, hold: timedelta | None
) -> None:
    """At most a day; a small step, and a step back, hold nothing."""
    host_clock.sweep(jump)
    found = host_clock.hold
    assert (found is None) == (hold is None)
    assert found is None or hold is None or abs(found - hold) <= 5 * SECOND


def test_without_a_sweep_nothing_is_erased(runtime: Runtime, host_clock: Clock) -> None:
    """The time cannot be compared with that of a sweep long ago."""
    handle(runtime, webhooks.virtualsms_v1())
    work(runtime)
    host_clock.set(40 * DAY)
    tasks.purge()
    assert only_row(runtime, Code).code is not None


def test_the_periodic_tasks_do_not_follow_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Set back by hours, the schedule goes on each second."""
    running = 1000.0
    monkeypatch.setattr(clock, "boottime", lambda: running)
    every = celery_app._every(1, expires=10)["schedule"]
    last = every.now()
    monkeypatch.setattr(clock, "now", lambda: datetime(1990, 1, 1))  # noqa: DTZ001
    running += 1.0
    assert every.is_due(last).is_due
