"""Workers that poll one provider and deliver to Slack."""

from __future__ import annotations

import pytest

from tests.worker.support import World
from worker.runtime.runtime import Runtime


@pytest.fixture
def runtime(world: World) -> Runtime:
    """A worker that polls DaisySIM."""
    return world.connect(daisysim=True, slack=True)


@pytest.fixture
def virtual(world: World) -> Runtime:
    """A worker that polls VirtualSMS."""
    return world.connect(virtualsms=True, slack=True)
