"""What a leaked token can do: little, and it is seen."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from receiver import clock
from receiver.errors import PayloadTooLarge, TooManyRequests
from receiver.providers.base import Limits, WebhookRequest
from receiver.providers.daisysim import DaisySIM, DaisySIMSettings
from receiver.providers.virtualsms import VirtualSMS, VirtualSMSSettings
from receiver.web.request_limits import BURST_SECONDS, RequestLimits
from tests.receiver.web.conftest import Clock, Receiver, Start
from tests.support import webhooks
from tests.support.waiting import eventually

OTHER = "another-token-0123456789"


def daisysim(rate: float = 20, largest_body: int = 100) -> DaisySIM:
    """The provider with these limits."""
    provider = DaisySIM(DaisySIMSettings())
    provider.limits = Limits(largest_body, rate)
    return provider


def request(token: str = webhooks.TOKEN, body: bytes = b"{}") -> WebhookRequest:
    """A request with a token in its path."""
    return WebhookRequest(headers=[], body=body, token=token, at=datetime.now(UTC))


def accepted(limits: RequestLimits, provider: DaisySIM, sent: WebhookRequest, count: int) -> int:
    """How many of ``count`` requests are within the limits."""
    number = 0
    for _ in range(count):
        try:
            limits.check(provider, sent)
        except TooManyRequests:
            continue
        number += 1
    return number


@pytest.mark.parametrize("rate", [0.5, 1, 7, 20])
def test_the_rate_is_kept_with_a_burst(rate: float) -> None:
    """After a burst of some seconds, no more come through than the rate says, for any duration."""
    time, provider = Clock(), daisysim(rate)
    limits = RequestLimits(time)
    burst = int(rate * BURST_SECONDS)
    assert accepted(limits, provider, request(), 1_000) == burst
    later = 0
    for _ in range(60):
        time.now += 1
        later += accepted(limits, provider, request(), 100)
    assert later == pytest.approx(rate * 60, abs=1)
    time.now += 3_600
    assert accepted(limits, provider, request(), 1_000) == burst


def test_each_token_is_counted_by_itself() -> None:
    """The honest sender moves to the new token while the old one is flooded."""
    limits, provider = RequestLimits(Clock()), daisysim()
    assert accepted(limits, provider, request(), 1_000) == accepted(
        limits, provider, request(OTHER), 1_000
    )
    in_header = replace(request(), token=None, headers=[(b"x-codecatch-token", OTHER.encode())])
    assert accepted(limits, provider, in_header, 1) == 0


def test_retry_after_is_when_the_next_one_is_accepted() -> None:
    """And not a moment that never comes."""
    time, provider = Clock(), daisysim(0.25)
    limits = RequestLimits(time)
    accepted(limits, provider, request(), 10)
    with pytest.raises(TooManyRequests) as refused:
        limits.check(provider, request())
    assert refused.value.retry_after == 3
    time.now += 3
    limits.check(provider, request())


def test_a_large_body_is_refused_and_not_counted() -> None:
    """The limit is inclusive."""
    limits, provider = RequestLimits(Clock()), daisysim(1)
    for _ in range(10):
        with pytest.raises(PayloadTooLarge):
            limits.check(provider, request(body=b"x" * 101))
    assert accepted(limits, provider, request(body=b"x" * 100), 10) == BURST_SECONDS


def test_the_wall_clock_does_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    """Setting the host's clock forward opens nothing, and setting it back blocks nothing."""
    limits, provider = RequestLimits(), daisysim(0.001)
    limits.check(provider, request())
    monkeypatch.setattr(clock, "now", lambda: datetime(2099, 1, 1, tzinfo=UTC))
    monkeypatch.setattr("time.time", lambda: 4e9)
    with pytest.raises(TooManyRequests):
        limits.check(provider, request())


def test_a_signed_provider_has_no_such_limit() -> None:
    """Nobody but VirtualSMS can send signed webhooks."""
    provider, limits = VirtualSMS(VirtualSMSSettings()), RequestLimits(Clock())
    assert provider.limits is None
    for _ in range(1_000):
        limits.check(provider, request(body=b"x" * 60_000))


@pytest.mark.parametrize("token_in", ["path", "header"])
def test_above_the_rate_is_429_and_recorded(start: Start, token_in: str) -> None:
    """Nothing more is stored; the answer says when to come back; the other provider goes on."""
    receiver = start(DAISYSIM_RATE="1")
    sent = [
        receiver.send(webhooks.daisysim(code=f"{number:06}", token_in=token_in))  # type: ignore[arg-type]
        for number in range(20)
    ]
    refused = [answer for answer in sent if answer.status != 202]
    assert 10 <= len(refused) <= 15
    for answer in refused:
        assert answer.problem(429) == "too many requests"
        assert answer.headers["retry-after"] == "1"
    assert receiver.send(webhooks.virtualsms_v1()).status == 202
    assert receiver.send(webhooks.daisysim(token=OTHER)).status == 401
    assert len(receiver.events()) == 20 - len(refused) + 1
    said = (429, "more requests with one token than DAISYSIM_RATE allows")
    assert eventually(
        lambda: (
            [(row.status, row.reason) for row in receiver.rejections()].count(said) == len(refused)
        )
    )


def test_above_the_size_is_413(receiver: Receiver, start: Start) -> None:
    """8 KiB are the default; VirtualSMS may send as much as the receiver takes."""
    largest = b'{"a":"' + b"x" * (8 * 1024 - 8) + b'"}'
    assert len(largest) == 8 * 1024
    assert receiver.send(webhooks.daisysim().with_body(largest)).status == 202
    answer = receiver.send(webhooks.daisysim().with_body(largest + b" "))
    assert answer.problem(413) == "the body is over 8192 bytes (DAISYSIM_LARGEST_BODY)"
    assert receiver.send(webhooks.daisysim(token=OTHER).with_body(largest + b" ")).status == 401
    assert receiver.send(webhooks.signed(largest + b" ")).status == 202
    assert len(receiver.events()) == 2
    small = start(DAISYSIM_LARGEST_BODY="20")
    assert small.send(webhooks.daisysim().with_body(b"x" * 20)).status == 202
    assert small.send(webhooks.daisysim().with_body(b"x" * 21)).status == 413
