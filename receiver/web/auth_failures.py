"""Requests that could not be authenticated: counted by address, so that guessing stays cheap to us.

Authentication comes first, so an authentic request is served whatever its neighbours did. Only
what a failure is given is bounded: above a few a minute from one address it is answered with 429
and leaves no trace, and few a second are examined for what the owner might have done wrong.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable

from receiver.addresses import Address, sender_of

PER_MINUTE = 30
EXAMINED_PER_SECOND = 5
# Of so many addresses at most anything is remembered: about 2 MB.
MOST_SENDERS = 10_000
_WINDOW_SECONDS = 60.0


class AuthFailures:
    """The failures of the last minute, in this process."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._senders: OrderedDict[int, tuple[float, int]] = OrderedDict()
        self._second = (0.0, 0)

    def tolerates(self, address: Address | None) -> bool:
        """Count one more failure of ``address``; whether that is within what deserves a trace."""
        sender, now = sender_of(address), self._clock()
        began, count = self._senders.pop(sender, (now, 0))
        if now - began >= _WINDOW_SECONDS:
            began, count = now, 0
        self._senders[sender] = began, count + 1
        if len(self._senders) > MOST_SENDERS:
            self._senders.popitem(last=False)
        return count < PER_MINUTE

    def worth_examining(self) -> bool:
        """Whether there is time left this second to find out why one failed."""
        began, count = self._second
        now = self._clock()
        if now - began >= 1:
            began, count = now, 0
        self._second = began, count + 1
        return count < EXAMINED_PER_SECOND
