"""Processes share one API key: what the provider sees."""

from __future__ import annotations

import itertools
import os
import time
from collections import Counter
from collections.abc import Sequence

from tests.support import webhooks
from tests.support.http_server import Reply, Request
from tests.support.waiting import eventually
from tests.worker.confirmation.settlers import ProcessGroup
from tests.worker.support import CONFIRM_PATH, ORDER_PATH, World, all_rows, handle
from worker.runtime.runtime import Runtime
from worker.schema.models import Confirmation

PROCESSES = 4
# In seconds: how long a call may take from its debit to the provider, on a busy machine.
ON_THE_WAY = 4.0


class Counting:
    """The provider: it confirms every order, except for one call that it answers with 429."""

    def __init__(self, world: World, *, refused: int, retry_after: int) -> None:
        self._world, self._refused, self._retry_after = world, refused, retry_after
        self._calls = itertools.count(1)
        self.refused_at: float | None = None
        world.api.on("POST", CONFIRM_PATH, handler=self._answer)
        world.api.on("GET", ORDER_PATH, json={"order_id": "any", "status": "received"})

    def _answer(self, request: Request) -> Reply:
        if next(self._calls) == self._refused:
            self.refused_at = request.clock
            return Reply(status=429, headers={"Retry-After": str(self._retry_after)})
        return Reply(json={"order_id": request.path.split("/")[-2], "status": "confirmed"})

    def posts(self) -> list[float]:
        """The times of the confirmation calls."""
        return [call.clock for call in self._world.api.requests("POST")]

    def calls(self) -> list[float]:
        """The times of all calls, sorted."""
        return sorted(call.clock for call in self._world.api.requests())

    def check(self, *, limit: int, window: float) -> None:
        """Check that no window has too many calls, and that none was made during the block."""
        calls = self.calls()
        assert busiest(calls, window) <= limit
        assert self.refused_at is not None
        until = self.refused_at + self._retry_after
        # Calls debited before the 429 arrived were already in flight.
        assert busiest([at for at in calls if at < until - 0.1], window) <= limit
        assert not [at for at in calls if self.refused_at + ON_THE_WAY < at < until - 0.1]
        each = Counter(call.path for call in self._world.api.requests("POST"))
        assert sorted(each.values())[-2:] == [1, 2]  # the rejected one is retried


def busiest(calls: Sequence[float], window: float) -> int:
    """The most calls in any ``window`` seconds."""
    return max(sum(first <= call < first + window for call in calls) for first in calls)


def plan(runtime: Runtime, orders: int) -> None:
    """Create orders with a planned confirmation."""
    handle(runtime, *(webhooks.virtualsms_v1(order=f"ord_{each}") for each in range(orders)))


def left(runtime: Runtime) -> int:
    """How many orders are not confirmed yet."""
    return sum(row.state != "done" for row in all_rows(runtime, Confirmation))


def test_processes_share_a_budget(world: World) -> None:
    """No window has too many calls, a 429 stops all, and less urgent calls leave half."""
    limit, window, orders = 12, 2.0, 11
    provider = Counting(world, refused=limit // 2, retry_after=5)
    runtime = world.connect(virtualsms=True, VIRTUALSMS_RATE_LIMIT=str(limit))
    with ProcessGroup(os.environ, window) as group:
        group.add("settle", PROCESSES - 1)
        group.add("poll")
        eventually(lambda: len(provider.calls()) == limit // 2, within=60)
        plan(runtime, orders)
        planned = time.monotonic()
        eventually(lambda: left(runtime) == 0, within=50, every=0.1)

    provider.check(limit=limit, window=window)
    # The reserved half was used for the orders before an earlier call had left the window.
    assert provider.posts()[limit // 2 - 1] - planned < window + 2
