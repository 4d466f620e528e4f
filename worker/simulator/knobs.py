"""Settings of the simulated providers, and the seeded random numbers that they use."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from decimal import Decimal


@dataclass(slots=True, kw_only=True)
class Knobs:
    """Fractions are between 0 and 1, times are in seconds.

    All settings may change while the simulation runs, except ``seed``, ``balance`` and
    ``clock_skew``, which are read at the start.

    Attributes:
        seed: the same seed and the same sequence of calls give the same decisions, ids and codes.
        balance: the balance of each account at the start.
        activation: how long an order stays ``created`` before its number waits for messages.
        order_lifetime: how long a number waits for a message.
        sms_after: delay of the message after the number starts to wait; None: messages come only
            through ``deliver``.
        early_hold: VirtualSMS answers 425 to a swap or cancel before 120 s (in its public
            documents, not in its API reference).
        long_poll: how long a request for a message is held.
        latency: the duration of each API call.
        limit_factor: factor for the documented limits of calls in a minute.
        api_429: the fraction of API calls that get 429, at any rate of calls.
        api_503: the fraction that get "unavailable" (VirtualSMS 503, DaisySIM 502).
        api_500: the fraction that fail with 500, half of them after their effect.
        api_cut: the fraction that take effect and whose connection is cut without an answer.
        webhooks_dropped: the fraction of webhooks that are never sent.
        webhooks_doubled: the fraction that are sent twice, half of them with another event id.
        webhooks_delayed: the fraction that are late, and so out of order.
        webhook_delay: the longest delay.
        retry_factor: factor for the pauses between attempts of a webhook.
        clock_skew: how far the providers' clocks are ahead of this machine's.
    """

    seed: int = 0
    balance: Decimal = Decimal(100)
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


class SeededRandom:
    """Random values derived from the seed and a subject, so that thread timing has no effect."""

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def fraction(self, *subject: object) -> float:
        """A number in the half-open range [0, 1)."""
        return self.integer(2**53, *subject) / 2**53

    def integer(self, below: int, *subject: object) -> int:
        """A whole number in the half-open range [0, ``below``)."""
        words = "\x1f".join(map(str, (self._seed, *subject)))
        return int.from_bytes(hashlib.blake2b(words.encode(), digest_size=16).digest()) % below

    def happens(self, probability: float, *subject: object) -> bool:
        """True with the given probability."""
        return self.fraction(*subject) < probability
