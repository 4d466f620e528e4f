"""API answers that go wrong, as often as asked."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable

import pytest

from tests.worker.simulator.conftest import AskDaisySIM, AskVirtualSMS, Make
from tests.worker.simulator.test_daisysim_api import PRICE, UK
from worker.providers.errors import (
    ProviderError,
    ProviderOutcomeUnknown,
    RateLimited,
    UnknownProviderError,
    UpstreamFailed,
)
from worker.providers.virtualsms.api import VirtualSMS
from worker.simulator.server import Upstream


def test_a_cut_answer_has_its_effect(make_upstream: Make, ask_virtualsms: AskVirtualSMS) -> None:
    """The order is made and paid; the caller cannot know; the log says that nobody was told."""
    upstream = make_upstream(api_cut=1.0)
    api = ask_virtualsms(upstream)
    with pytest.raises(ProviderOutcomeUnknown) as unknown:
        api.create_order("telegram", "GB")
    assert unknown.value.unknown
    assert len(upstream.virtualsms.orders) == 1
    (call,) = upstream.calls()
    assert (call.method, call.status) == ("POST", None)
    upstream.knobs.api_cut = 0.0
    (order,) = api.list_orders().items
    assert order.order_id in upstream.virtualsms.orders


def test_a_cut_at_the_other_provider(make_upstream: Make, ask_daisysim: AskDaisySIM) -> None:
    """So it is with DaisySIM."""
    upstream = make_upstream(api_cut=1.0)
    with pytest.raises(ProviderOutcomeUnknown):
        ask_daisysim(upstream).purchase(UK, "wa", PRICE)
    assert len(upstream.daisysim.activations) == 1


def test_a_server_that_breaks_has_done_it_or_not(
    make_upstream: Make, ask_virtualsms: AskVirtualSMS
) -> None:
    """Some of the orders that end with 500 are there, and some are not."""
    upstream = make_upstream(api_500=1.0)
    api = ask_virtualsms(upstream)
    for _ in range(20):
        with pytest.raises(UnknownProviderError) as broken:
            api.create_order("telegram", "GB")
        assert (broken.value.status, broken.value.unknown) == (500, True)
    assert 4 <= len(upstream.virtualsms.orders) <= 16


@pytest.mark.parametrize("knob", ["api_429", "api_503"])
def test_a_refused_call_has_no_effect(
    make_upstream: Make, ask_virtualsms: AskVirtualSMS, ask_daisysim: AskDaisySIM, knob: str
) -> None:
    """Neither provider does what it refuses at random; VirtualSMS says when to come again."""
    upstream = make_upstream(**{knob: 1.0})
    with pytest.raises(ProviderError) as first:
        ask_virtualsms(upstream).create_order("telegram", "GB")
    with pytest.raises(ProviderError) as second:
        ask_daisysim(upstream).purchase(UK, "wa", PRICE)
    assert upstream.virtualsms.orders == {}
    assert upstream.daisysim.activations == {}
    if knob == "api_429":
        assert isinstance(first.value, RateLimited)
        assert isinstance(second.value, RateLimited)
        assert first.value.retry_after == 1
    else:
        assert first.value.status == 503
        assert isinstance(second.value, UpstreamFailed)


def test_fractions_are_kept_and_repeat(make_upstream: Make, ask_virtualsms: AskVirtualSMS) -> None:
    """Each fault comes about as often as asked, and for one seed at the same calls."""

    def outcomes(seed: int) -> list[int | None]:
        upstream = make_upstream(seed=seed, api_429=0.1, api_503=0.1, api_500=0.1, api_cut=0.1)
        api = ask_virtualsms(upstream)
        for _ in range(3):
            for _ in range(60):
                _try(api.get_balance)
            upstream.advance(61)
        return [call.status for call in upstream.calls()]

    first, again, other = outcomes(5), outcomes(5), outcomes(6)
    assert first == again
    assert first != other
    counted = Counter(first)
    assert all(8 <= counted[status] <= 30 for status in (429, 503, 500, None))
    assert counted[200] >= 80


def test_latency(make_upstream: Make, ask_virtualsms: AskVirtualSMS) -> None:
    """Every answer takes its time."""
    api = ask_virtualsms(make_upstream(latency=0.15))
    began = time.monotonic()
    api.get_balance()
    assert time.monotonic() - began >= 0.15


def test_knobs_can_be_turned(upstream: Upstream, virtualsms: VirtualSMS) -> None:
    """A test may break a provider for a while."""
    virtualsms.get_balance()
    upstream.knobs.api_503 = 1.0
    with pytest.raises(ProviderError):
        virtualsms.get_balance()
    upstream.knobs.api_503 = 0.0
    virtualsms.get_balance()


def _try(call: Callable[[], object]) -> None:
    try:
        call()
    except ProviderError:
        return
