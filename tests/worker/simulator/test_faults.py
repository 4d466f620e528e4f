"""Faults of API calls, at the configured rates."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable

import pytest

from tests.worker.simulator.conftest import MakeDaisySIM, MakeSimulator, MakeVirtualSMS
from tests.worker.simulator.test_daisysim_api import PRICE, UK
from worker.providers.errors import (
    ProviderError,
    ProviderOutcomeUnknown,
    RateLimited,
    UnknownProviderError,
    UpstreamFailed,
)


def test_a_cut_answer_has_its_effect(
    make_simulator: MakeSimulator, make_virtualsms: MakeVirtualSMS, make_daisysim: MakeDaisySIM
) -> None:
    """The order exists and is charged, the caller gets no answer, and the log has no status."""
    simulator = make_simulator(api_cut=1.0)
    with pytest.raises(ProviderOutcomeUnknown) as unknown:
        make_virtualsms(simulator).create_order("telegram", "GB")
    assert unknown.value.unknown
    assert len(simulator.virtualsms.orders) == 1
    (call,) = simulator.calls()
    assert (call.method, call.status) == ("POST", None)
    with pytest.raises(ProviderOutcomeUnknown):
        make_daisysim(simulator).purchase(UK, "wa", PRICE)
    assert len(simulator.daisysim.activations) == 1


def test_a_500_may_have_its_effect_or_not(
    make_simulator: MakeSimulator, make_virtualsms: MakeVirtualSMS
) -> None:
    """Some of the calls that answer 500 created an order, and some did not."""
    simulator = make_simulator(api_500=1.0)
    api = make_virtualsms(simulator)
    for _ in range(20):
        with pytest.raises(UnknownProviderError) as broken:
            api.create_order("telegram", "GB")
        assert (broken.value.status, broken.value.unknown) == (500, True)
    assert 4 <= len(simulator.virtualsms.orders) <= 16


@pytest.mark.parametrize("knob", ["api_429", "api_503"])
def test_a_refused_call_has_no_effect(
    make_simulator: MakeSimulator,
    make_virtualsms: MakeVirtualSMS,
    make_daisysim: MakeDaisySIM,
    knob: str,
) -> None:
    """A randomly rejected call does nothing; VirtualSMS also says how long to wait."""
    simulator = make_simulator(**{knob: 1.0})
    with pytest.raises(ProviderError) as first:
        make_virtualsms(simulator).create_order("telegram", "GB")
    with pytest.raises(ProviderError) as second:
        make_daisysim(simulator).purchase(UK, "wa", PRICE)
    assert simulator.virtualsms.orders == {}
    assert simulator.daisysim.activations == {}
    if knob == "api_429":
        assert isinstance(first.value, RateLimited)
        assert isinstance(second.value, RateLimited)
        assert first.value.retry_after == 1
    else:
        assert first.value.status == 503
        assert isinstance(second.value, UpstreamFailed)


def test_faults_have_the_set_rate_and_repeat(
    make_simulator: MakeSimulator, make_virtualsms: MakeVirtualSMS
) -> None:
    """Each fault is about as frequent as set, and the same seed fails the same calls."""

    def outcomes(seed: int) -> list[int | None]:
        simulator = make_simulator(seed=seed, api_429=0.1, api_503=0.1, api_500=0.1, api_cut=0.1)
        api = make_virtualsms(simulator)
        for _ in range(3):
            for _ in range(60):
                _try(api.get_balance)
            simulator.advance(61)
        return [call.status for call in simulator.calls()]

    first, again, other = outcomes(5), outcomes(5), outcomes(6)
    assert first == again
    assert first != other
    counted = Counter(first)
    assert all(8 <= counted[status] <= 30 for status in (429, 503, 500, None))
    assert counted[200] >= 80


def test_latency(make_simulator: MakeSimulator, make_virtualsms: MakeVirtualSMS) -> None:
    """Every answer takes at least the set latency."""
    api = make_virtualsms(make_simulator(latency=0.15))
    began = time.monotonic()
    api.get_balance()
    assert time.monotonic() - began >= 0.15


def _try(call: Callable[[], object]) -> None:
    try:
        call()
    except ProviderError:
        return
