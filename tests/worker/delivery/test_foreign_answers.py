"""Answers that are not the destination's own: a proxy's page, a login portal, a redirect."""

from __future__ import annotations

from datetime import timedelta

import pytest

from tests.support.http_server import Reply
from tests.worker.delivery.senders import Script, Scripted
from tests.worker.support import (
    HOUR,
    SLACK_PATH,
    World,
    all_rows,
    change,
    deliver,
    notices,
    now,
    plan_codes,
    reload,
    routed_to,
    states,
    sweep_now,
    with_destinations,
    with_policy,
)
from worker.delivery.outcome import FOREIGN_REPORTED_AFTER, MAX_ATTEMPTS, MAX_REFUSALS
from worker.destinations.base import DeliveryError
from worker.runtime.runtime import Runtime
from worker.schema.models import Delivery, DestinationState

PAGE = b"<!DOCTYPE html><title>Access denied</title>"
FOREIGN = DeliveryError("something else answered", foreign=True)


def answer(world: World, status: int, body: bytes = PAGE) -> None:
    """Let a proxy answer in place of Slack from now on."""
    world.slack.on("POST", SLACK_PATH, status=status, body=body, headers={"location": "/login"})


def state_of(runtime: Runtime) -> DestinationState:
    """The state of the destination."""
    with runtime.database.reading() as session:
        return session.get_one(DestinationState, "slack")


@pytest.mark.parametrize("status", [302, 403, 404, 407, 502])
def test_a_proxys_page_ends_no_message(
    world: World, two_destinations: Runtime, status: int
) -> None:
    """However often it comes, the message waits, the destination stays enabled; then it is sent."""
    runtime = routed_to(two_destinations, "slack")
    answer(world, status)
    (row,) = plan_codes(runtime)
    for _ in range(MAX_ATTEMPTS + MAX_REFUSALS):
        deliver(runtime, row)
        waiting = reload(runtime, row)
        assert waiting.state == "pending"
        assert timedelta(0) < waiting.next_attempt_at - now(runtime) < timedelta(minutes=9)
    assert str(status) in (waiting.error or "")
    assert waiting.failures == 0
    assert state_of(runtime).disabled_at is None
    assert notices(runtime) == []

    answer(world, 200, b"ok")
    deliver(runtime, row)
    assert states(runtime, [row]) == ["done"]
    assert state_of(runtime).foreign_since is None


def test_the_operators_hear_of_it_once(world: World, two_destinations: Runtime) -> None:
    """After an hour of foreign answers; the destination's own words end that hour."""
    answer(world, 403)
    rows = plan_codes(routed_to(two_destinations, "slack"), 2)
    deliver(two_destinations, *rows)
    assert notices(two_destinations) == []
    since = now(two_destinations) - FOREIGN_REPORTED_AFTER
    change_state(two_destinations, foreign_since=since)
    deliver(two_destinations, *rows, *rows)
    (notice,) = notices(two_destinations)
    assert notice.destination == "other"
    assert "slack has not answered itself for 60 minutes" in (notice.detail or "")

    answer(world, 404, b"channel_not_found")
    deliver(two_destinations, rows[0])
    state = state_of(two_destinations)
    assert (state.foreign_since, state.foreign_reported_at) == (None, None)


def change_state(runtime: Runtime, **values: object) -> None:
    """Write to the destination's state."""
    with runtime.database.transaction() as session:
        state = session.get_one(DestinationState, "slack")
        for name, value in values.items():
            setattr(state, name, value)


def test_it_is_over_after_a_day(runtime: Runtime) -> None:
    """A code of yesterday is of no use."""
    script = Script([FOREIGN])
    scripted = with_destinations(runtime, Scripted("slack", script))
    (row,) = plan_codes(scripted)
    change(scripted, row, created_at=now(scripted) - 25 * HOUR)
    sweep_now(scripted)
    deliver(scripted, row)
    assert states(scripted, [row]) == ["dead"]


@pytest.mark.parametrize("on_unknown", ["repeat", "hold"])
def test_a_page_with_a_success_is_unknown(world: World, runtime: Runtime, on_unknown: str) -> None:
    """The destination's policy decides: repeated, marked, until Slack answers; or held."""
    portal = with_policy(runtime, on_unknown=on_unknown)
    answer(world, 200)
    (row,) = plan_codes(portal)
    for _ in range(3):
        deliver(portal, row)
    if on_unknown == "hold":
        assert states(portal, [row]) == ["unknown"]
        assert len(world.sent_to()) == 1
        return
    assert states(portal, [row]) == ["pending"]
    answer(world, 200, b"ok")
    deliver(portal, row)
    assert states(portal, [row]) == ["done"]
    first, *others = world.sent_to()
    assert "repeated" not in first["text"]
    assert all("repeated" in each["text"] for each in others)


def test_another_success_than_ok_is_repeated_once(world: World, runtime: Runtime) -> None:
    """Words that are neither a page nor Slack's: unknown, one repetition, no more."""
    (row,) = plan_codes(runtime)
    for _ in range(2):
        world.slack.once("POST", SLACK_PATH, Reply(body=b"OK"))
    deliver(runtime, row)
    assert states(runtime, [row]) == ["pending"]
    deliver(runtime, row)
    assert states(runtime, [row]) == ["unknown"]
    assert len(all_rows(runtime, Delivery)) == 1
