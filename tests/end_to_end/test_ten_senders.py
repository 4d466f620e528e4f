"""Ten senders share one API key; the simulated providers check the rate limit in real time."""

from __future__ import annotations

import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from pathlib import Path

import pytest

from tests.end_to_end.purchases import buy
from tests.support import webhooks
from tests.support.ports import free_port
from tests.support.processes import ServerProcess, stop_all
from tests.support.stores import ENCRYPTION_KEYS, Store
from tests.support.waiting import eventually
from tests.worker.support import all_rows
from worker.schema.models import Order
from worker.simulator.call_log import ApiCall
from worker.simulator.server import Simulator

SENDERS = 10
LIMIT = 60
# Seconds from the codes to the last confirmation; waiting for a spent budget would take a minute.
MAX_SETTLE_SECONDS = 25.0


@pytest.fixture
def port() -> int:
    """The receiver's port."""
    return free_port()


@pytest.fixture
def simulator(make_simulator: Callable[..., Simulator], port: int) -> Simulator:
    """Simulated providers with the documented rate limits."""
    return make_simulator(f"http://127.0.0.1:{port}")


@pytest.fixture
def environment(simulator: Simulator, store: Store, broker_url: str, port: int) -> dict[str, str]:
    """The environment of every process."""
    return {
        **os.environ,
        **simulator.environment,
        "VIRTUALSMS_WEBHOOK_SECRETS": webhooks.SECRET,
        "DAISYSIM_WEBHOOK_TOKENS": webhooks.TOKEN,
        "DATABASE_URL": store.url,
        "REDIS_URL": broker_url,
        "ENCRYPTION_KEYS": ENCRYPTION_KEYS,
        "PORT": str(port),
        "LOG_FORMAT": "json",
    }


@pytest.fixture
def _running(environment: dict[str, str], tmp_path: Path) -> Iterator[None]:
    """An installation with ten senders."""
    command = [sys.executable, "-m", "worker.cli", "run"]
    parts = ["web", "worker", "beat", *["sender"] * SENDERS]
    running = [ServerProcess([*command, part], cwd=tmp_path, env=environment) for part in parts]
    yield
    stop_all(running, within=30)


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.usefixtures("_running")
def test_the_limit_holds_and_confirmations_have_priority(
    simulator: Simulator, store: Store, environment: dict[str, str]
) -> None:
    """While many orders are polled, codes settle promptly and no minute exceeds the limit."""
    simulator.knobs.limit_factor = 1_000
    bought = buy(simulator, store, environment, virtualsms=60, daisysim=18)
    simulator.advance(61)
    simulator.knobs.limit_factor = 1
    since = simulator.now()

    def calls_since(path: str) -> list[ApiCall]:
        return [call for call in simulator.calls("*", path) if call.at >= since]

    # DaisySIM has too few open orders for polling by pages.
    eventually(lambda: len(calls_since("*/check/*")) >= 18, within=120, every=0.5)
    orders = [*simulator.virtualsms.orders][:25]
    activations = [*simulator.daisysim.activations][:15]
    started = time.monotonic()
    for index, order in enumerate([*orders, *activations]):
        bought[order](order, str(500_001 + index))
    eventually(lambda: confirmed(store) >= {*orders, *activations}, within=120, every=0.2)
    took = time.monotonic() - started
    # A whole minute must follow the last confirmation.
    eventually(lambda: simulator.now() - since > timedelta(seconds=150), within=200, every=1)

    confirmations = Counter(call.path for call in calls_since("*/confirm"))
    assert len(confirmations) == len(orders)
    assert set(confirmations.values()) == {1}
    assert [call.line for call in calls_since("*") if call.status == 429] == []
    most = busiest(calls_since("/api/v2/*")), busiest(calls_since("*/check/*"))
    print(f"\n40 codes settled in {took:.1f} s; busiest minutes: {most[0]} calls, {most[1]} checks")
    assert max(most) <= LIMIT
    assert took < MAX_SETTLE_SECONDS


def busiest(calls: Sequence[ApiCall]) -> int:
    """The highest number of calls in any minute."""
    return max(
        sum(first.clock <= each.clock < first.clock + 60 for each in calls) for first in calls
    )


def confirmed(store: Store) -> set[str]:
    """The confirmed orders."""
    return {row.order_id for row in all_rows(store, Order) if row.status == "confirmed"}
