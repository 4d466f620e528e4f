"""What can be set about the simulated providers, and the dice that are thrown by it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from decimal import Decimal


@dataclass(slots=True, kw_only=True)
class Knobs:
    """Fractions are between 0 and 1, times in seconds.

    All may be turned while the simulation runs, but for ``seed``, ``balance`` and ``clock_skew``,
    which count when it begins.

    Attributes:
        seed: equal seeds make equal decisions, ids and codes for equal calls in equal order.
        balance: what each account has at the start.
        low_balance: VirtualSMS reports a balance that falls to this.
        activation: how long an order is ``created`` before its number waits for messages.
        order_lifetime: how long a number waits.
        sms_after: when the message comes after the number waits; None: when it is sent by hand.
        early_hold: VirtualSMS answers 425 to a swap or cancel before 120 s (in its public
            documents, not in its API reference).
        long_poll: how long a request for a message is held.
        latency: how long each API call takes.
        limit_factor: what the documented limits of calls in a minute are multiplied by.
        api_429: the fraction of API calls refused with 429, at any rate of calls.
        api_503: the fraction refused as unavailable (VirtualSMS 503, DaisySIM 502).
        api_500: the fraction that break with 500, in half of the cases after their effect.
        api_cut: the fraction that take effect, and whose connection is cut without an answer.
        webhooks_dropped: the fraction of webhooks that are never sent.
        webhooks_doubled: the fraction sent twice, half of them under another event id.
        webhooks_delayed: the fraction that come late, and so out of order.
        webhook_delay: how late at most.
        retry_factor: what the pauses between attempts of a webhook are multiplied by.
        clock_skew: how far the providers' clocks are ahead of this machine's.
    """

    seed: int = 0
    balance: Decimal = Decimal(100)
    low_balance: Decimal = Decimal(5)
    activation: float = 0.0
    order_lifetime: float = 1200.0
    sms_after: float | None = None
    early_hold: bool = False
    long_poll: float = 180.0
    latency: float = 0.0
    limit_factor: float = 1.0
    api_429: float = 0.0
    api_503: float = 0.0
    api_500: float = 0.0
    api_cut: float = 0.0
    webhooks_dropped: float = 0.0
    webhooks_doubled: float = 0.0
    webhooks_delayed: float = 0.0
    webhook_delay: float = 2.0
    retry_factor: float = 1.0
    clock_skew: float = 0.0


class Dice:
    """Decides by what it is asked about, never by when: threads do not change an answer."""

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def roll(self, *about: object) -> float:
        """A number from 0 up to, and without, 1."""
        return self.number(2**53, *about) / 2**53

    def number(self, below: int, *about: object) -> int:
        """A whole number from 0 up to, and without, ``below``."""
        words = "\x1f".join(map(str, (self._seed, *about)))
        return int.from_bytes(hashlib.blake2b(words.encode(), digest_size=16).digest()) % below

    def happens(self, fraction: float, *about: object) -> bool:
        """Whether this is one of the ``fraction`` of cases that something happens to."""
        return self.roll(*about) < fraction
