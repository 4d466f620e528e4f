"""Bounds what one credential may send, so that a leaked token cannot fill the disk.

A token in a URL leaks easily: to a proxy's log, to a screenshot. Anybody who has it passes
authentication, but DaisySIM's real webhooks are few and small. Each receiver process counts in its
own memory, and allows the whole rate.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from receiver.errors import PayloadTooLarge, TooManyRequests
from receiver.providers.base import Provider, WebhookRequest

# How many seconds' worth of requests may come at once after a pause.
BURST_SECONDS = 5.0
# Sums of intervals are inexact.
_ROUNDING_SECONDS = 1e-6


class RequestLimits:
    """Enforces :attr:`Provider.limits`, for each credential."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        # For each credential, when all of its requests would have come at the pace of its rate.
        # Only credentials that are configured get here, so there are few.
        self._paced_until: dict[tuple[str, bytes], float] = {}

    def check(self, provider: Provider, request: WebhookRequest) -> None:
        """Count an authentic request.

        Raises:
            PayloadTooLarge: the body is larger than the provider's limit; it is not counted.
            TooManyRequests: more requests than the provider's rate; it is not counted.
        """
        limits = provider.limits
        if limits is None:
            return
        variable = provider.name.upper()
        if len(request.body) > limits.largest_body:
            raise PayloadTooLarge(
                f"the body is over {limits.largest_body} bytes ({variable}_LARGEST_BODY)"
            )
        now, interval = self._clock(), 1 / limits.rate
        credential = provider.name, provider.credential(request)
        paced_until = max(self._paced_until.get(credential, now), now) + interval
        wait = paced_until - now - max(BURST_SECONDS, interval)
        if wait > _ROUNDING_SECONDS:
            raise TooManyRequests(
                f"more requests with one token than {variable}_RATE allows", math.ceil(wait)
            )
        self._paced_until[credential] = paced_until
