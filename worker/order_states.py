"""How an order moves, as data: whatever the order of its events, it ends in the same state.

The providers' diagram is ``created → waiting → received → confirmed``, with ``cancelled`` and
``expired`` as the ways out of waiting, and ``swapped``, which returns to waiting with another
number. Webhooks come late, twice and reordered, so the state is the furthest one ever reported:
a maximum does not care in which order it is taken.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from receiver.events import (
    Event,
    OrderCancelled,
    OrderConfirmed,
    OrderEvent,
    OrderExpired,
    OrderSwapped,
    SmsReceived,
)

CREATED: Final = "created"
WAITING: Final = "waiting"
EXPIRED: Final = "expired"
CANCELLED: Final = "cancelled"
RECEIVED: Final = "received"
CONFIRMED: Final = "confirmed"

# From the least to the furthest. A code that comes after a cancellation came all the same.
RANKS: Final[Mapping[str, int]] = {
    state: rank
    for rank, state in enumerate((CREATED, WAITING, EXPIRED, CANCELLED, RECEIVED, CONFIRMED))
}

REPORTED: Final[Mapping[type[Event], str]] = {
    SmsReceived: RECEIVED,
    OrderConfirmed: CONFIRMED,
    OrderCancelled: CANCELLED,
    OrderExpired: EXPIRED,
    OrderSwapped: WAITING,
}


def reported(event: OrderEvent) -> str:
    """The state that ``event`` says its order is in."""
    return REPORTED[type(event)]


def furthest(known: str, said: str) -> str:
    """The further of two states."""
    return max(known, said, key=RANKS.__getitem__)
