"""The rate limits of both providers, by the provider's clock."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.worker.simulator.conftest import MakeSimulator, MakeVirtualSMS
from tests.worker.simulator.test_daisysim_api import PRICE, UK, buy
from worker.providers.daisysim.api import DaisySIM
from worker.providers.errors import ProviderError, RateLimited
from worker.providers.virtualsms.api import VirtualSMS
from worker.simulator.server import Simulator


def test_sixty_in_any_minute(simulator: Simulator, virtualsms: VirtualSMS) -> None:
    """The window slides: each call frees its slot a minute later, and not before."""
    for _ in range(30):
        virtualsms.get_balance()
    simulator.advance(40)
    for _ in range(30):
        virtualsms.get_profile()
    with pytest.raises(RateLimited) as refused:
        virtualsms.get_balance()
    assert refused.value.retry_after is not None
    assert 15 <= refused.value.retry_after <= 20
    simulator.advance(refused.value.retry_after)
    for _ in range(30):
        virtualsms.get_balance()
    with pytest.raises(RateLimited):
        virtualsms.get_balance()
    assert [call.status for call in simulator.calls()].count(200) == 90


def test_a_poll_counts_once(make_simulator: MakeSimulator, make_virtualsms: MakeVirtualSMS) -> None:
    """A long poll counts as one call, however long it takes."""
    simulator = make_simulator(long_poll=0.2)
    api = make_virtualsms(simulator)
    order = simulator.virtualsms.create("telegram", "GB").order_id
    for _ in range(59):
        api.get_balance()
    api.wait_for_sms(order)
    with pytest.raises(RateLimited):
        api.get_balance()


CallApi = Callable[[DaisySIM, Simulator], object]


@pytest.mark.parametrize(
    ("limit", "call"),
    [
        (30, lambda api, _: api.prices(UK, "wa")),
        (10, lambda api, _: api.purchase(UK, "wa", PRICE)),
        (60, lambda api, simulator: api.check(next(iter(simulator.daisysim.activations)))),
        (10, lambda api, _: api.cancel("unknown")),
    ],
    ids=["prices", "purchase", "check", "cancel"],
)
def test_each_class_has_its_limit(
    simulator: Simulator, daisysim: DaisySIM, limit: int, call: CallApi
) -> None:
    """The documented number of calls pass, failed ones included; other classes are not affected."""
    buy(simulator)
    outcomes: list[int | None] = []
    for _ in range(limit + 1):
        try:
            call(daisysim, simulator)
        except ProviderError as error:
            outcomes.append(error.status)
        else:
            outcomes.append(200)
    assert [outcome == 429 for outcome in outcomes] == [False] * limit + [True]
    for _ in range(70):
        daisysim.balance()


def test_limits_can_be_raised(
    make_simulator: MakeSimulator, make_virtualsms: MakeVirtualSMS
) -> None:
    """A factor raises the limit, so that tests can handle many orders at once."""
    api = make_virtualsms(make_simulator(limit_factor=1.1))
    for _ in range(66):
        api.get_balance()
    with pytest.raises(RateLimited):
        api.get_balance()
