"""Workers with one destination and with two."""

from __future__ import annotations

import pytest

from tests.worker.support import OTHER_PATH, World, slack_at, with_destinations, with_policy
from worker.runtime.runtime import Runtime


@pytest.fixture
def runtime(world: World) -> Runtime:
    """A worker with Slack as its destination, without a pace."""
    return with_policy(world.connect(slack=True), per_second=None)


@pytest.fixture
def two_destinations(world: World, runtime: Runtime) -> Runtime:
    """A worker with two destinations on one server."""
    return with_destinations(
        runtime,
        slack_at(runtime, "slack", world.slack),
        slack_at(runtime, "other", world.slack, OTHER_PATH),
    )
