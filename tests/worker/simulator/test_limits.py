"""The rate limits of both providers, by the provider's own clock."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.worker.simulator.conftest import AskVirtualSMS, Make
from tests.worker.simulator.test_daisysim_api import PRICE, UK, buy
from worker.providers.daisysim.api import DaisySIM
from worker.providers.errors import ProviderError, RateLimited
from worker.providers.virtualsms.api import VirtualSMS
from worker.simulator.server import Upstream


def test_sixty_in_any_minute(upstream: Upstream, virtualsms: VirtualSMS) -> None:
    """The window slides: each call makes room again a minute after it, and not before."""
    for _ in range(30):
        virtualsms.get_balance()
    upstream.advance(40)
    for _ in range(30):
        virtualsms.get_profile()
    with pytest.raises(RateLimited) as refused:
        virtualsms.get_balance()
    assert refused.value.retry_after is not None
    assert 15 <= refused.value.retry_after <= 20
    upstream.advance(refused.value.retry_after)
    for _ in range(30):
        virtualsms.get_balance()
    with pytest.raises(RateLimited):
        virtualsms.get_balance()
    assert [call.status for call in upstream.calls()].count(200) == 90


def test_a_poll_counts_once(make_upstream: Make, ask_virtualsms: AskVirtualSMS) -> None:
    """However long it is held, a request for the message is one call."""
    upstream = make_upstream(long_poll=0.2)
    api = ask_virtualsms(upstream)
    order = upstream.virtualsms.create("telegram", "GB").order_id
    for _ in range(59):
        api.get_balance()
    api.wait_for_sms(order)
    with pytest.raises(RateLimited):
        api.get_balance()


Ask = Callable[[DaisySIM, Upstream], object]


@pytest.mark.parametrize(
    ("limit", "ask"),
    [
        (30, lambda api, _: api.prices(UK, "wa")),
        (10, lambda api, _: api.purchase(UK, "wa", PRICE)),
        (60, lambda api, upstream: api.check(next(iter(upstream.daisysim.activations)))),
        (10, lambda api, _: api.cancel("unknown")),
    ],
    ids=["prices", "purchase", "check", "cancel"],
)
def test_each_class_has_its_limit(
    upstream: Upstream, daisysim: DaisySIM, limit: int, ask: Ask
) -> None:
    """The documented number of calls pass, also such as fail; others are not held up."""
    buy(upstream)
    outcomes: list[int | None] = []
    for _ in range(limit + 1):
        try:
            ask(daisysim, upstream)
        except ProviderError as error:
            outcomes.append(error.status)
        else:
            outcomes.append(200)
    assert [outcome == 429 for outcome in outcomes] == [False] * limit + [True]
    for _ in range(70):
        daisysim.balance()


def test_limits_can_be_raised(make_upstream: Make, ask_virtualsms: AskVirtualSMS) -> None:
    """For whoever wants to see many orders at once."""
    api = ask_virtualsms(make_upstream(limit_factor=1.1))
    for _ in range(66):
        api.get_balance()
    with pytest.raises(RateLimited):
        api.get_balance()
