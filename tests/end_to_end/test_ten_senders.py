"""Ten senders with one key, real minutes, and the simulated providers as the judge of them."""

from __future__ import annotations

import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path

import pytest

from tests.end_to_end.purchases import buy
from tests.support import webhooks
from tests.support.ports import free_port
from tests.support.processes import ServerProcess
from tests.support.stores import ENCRYPTION_KEYS, Store
from tests.support.waiting import eventually
from tests.worker.support import everything
from worker.schema.models import Order
from worker.simulator.call_log import ApiCall
from worker.simulator.server import Upstream

SENDERS = 10
LIMIT = 60
# What may pass between the codes and the last confirmation; a spent budget would take a minute.
PROMPTLY = 25.0


@pytest.fixture
def port() -> int:
    """Where webhooks are received."""
    return free_port()


@pytest.fixture
def upstream(make_upstream: Callable[..., Upstream], port: int) -> Upstream:
    """Providers with the limits that their documents give."""
    return make_upstream(f"http://127.0.0.1:{port}")


@pytest.fixture
def environment(upstream: Upstream, store: Store, broker_url: str, port: int) -> dict[str, str]:
    """What every process runs with."""
    return {
        **os.environ,
        **upstream.environment,
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
    with ExitStack() as stack:
        for part in ["web", "worker", "beat", *["sender"] * SENDERS]:
            command = [sys.executable, "-m", "worker.cli", "run", part]
            process = ServerProcess(command, cwd=tmp_path, env=environment)
            stack.callback(process.stop, within=30)
        yield


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.usefixtures("_running")
def test_a_minute_is_kept_and_people_come_first(
    upstream: Upstream, store: Store, environment: dict[str, str]
) -> None:
    """While many orders are asked for, codes are settled at once, and no minute has too much."""
    upstream.knobs.limit_factor = 1_000
    bought = buy(upstream, store, environment, virtualsms=60, daisysim=18)
    upstream.advance(61)
    upstream.knobs.limit_factor = 1
    since = upstream.now()

    def asked(path: str) -> list[ApiCall]:
        return [call for call in upstream.calls("*", path) if call.at >= since]

    # DaisySIM's are too few to be asked for by pages.
    eventually(lambda: len(asked("*/check/*")) >= 18, within=120, every=0.5)
    orders = [*upstream.virtualsms.orders][:25]
    activations = [*upstream.daisysim.activations][:15]
    started = time.monotonic()
    for place, order in enumerate([*orders, *activations]):
        bought[order](order, str(500_001 + place))
    eventually(lambda: confirmed(store) >= {*orders, *activations}, within=120, every=0.2)
    took = time.monotonic() - started
    # So that a whole minute lies behind the last of it.
    eventually(lambda: upstream.now() - since > timedelta(seconds=150), within=200, every=1)

    confirmations = Counter(call.path for call in asked("*/confirm"))
    assert len(confirmations) == len(orders)
    assert set(confirmations.values()) == {1}
    assert [call.line for call in asked("*") if call.status == 429] == []
    most = busiest(asked("/api/v2/*")), busiest(asked("*/check/*"))
    print(f"\n40 codes settled in {took:.1f} s; busiest minutes: {most[0]} calls, {most[1]} checks")
    assert max(most) <= LIMIT
    assert took < PROMPTLY


def busiest(calls: Sequence[ApiCall]) -> int:
    """The most calls in any minute."""
    return max(
        sum(first.clock <= each.clock < first.clock + 60 for each in calls) for first in calls
    )


def confirmed(store: Store) -> set[str]:
    """The orders that are over and paid."""
    return {row.order_id for row in everything(store, Order) if row.status == "confirmed"}
