"""Counts failed authentications by client address, so that guessing stays cheap for us.

Authentication comes first, so an authentic request is accepted whatever other requests from its
address did. Only the cost of failures is limited: above :data:`MAX_PER_MINUTE` from one address
they get 429 and are not recorded, and only :data:`MAX_DIAGNOSED_PER_SECOND` are examined for
configuration mistakes.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable

from receiver.addresses import Address, sender_of

MAX_PER_MINUTE = 30
MAX_DIAGNOSED_PER_SECOND = 5
# Bounds the memory to about 2 MB.
MAX_SENDERS = 10_000
_WINDOW_SECONDS = 60.0


class AuthFailures:
    """The failures of the last minute, in this process."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._senders: OrderedDict[int, tuple[float, int]] = OrderedDict()
        self._second = (0.0, 0)

    def record(self, address: Address | None) -> bool:
        """Count a failure of ``address``; return whether it is within the limit per minute."""
        sender, now = sender_of(address), self._clock()
        started_at, count = self._senders.pop(sender, (now, 0))
        if now - started_at >= _WINDOW_SECONDS:
            started_at, count = now, 0
        self._senders[sender] = started_at, count + 1
        if len(self._senders) > MAX_SENDERS:
            self._senders.popitem(last=False)
        return count < MAX_PER_MINUTE

    def allow_diagnosis(self) -> bool:
        """Count a request for a diagnosis; return whether it is within the limit per second."""
        started_at, count = self._second
        now = self._clock()
        if now - started_at >= 1:
            started_at, count = now, 0
        self._second = started_at, count + 1
        return count < MAX_DIAGNOSED_PER_SECOND
