"""How an order moves, as data: whatever the order of its events, it ends in the same state.

Webhooks come late, twice and reordered, so the state is the furthest one ever reported: a maximum
does not care in which order it is taken. What the providers' documents draw is kept beside it, to
tell a step that they know from one that only a late or a lost event explains.
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
from worker.schema.states import (
    CANCELLED,
    CONFIRMED,
    CREATED,
    EXPIRED,
    ORDER_STATES,
    RECEIVED,
    WAITING,
)

# From the least to the furthest. A code that comes after a cancellation came all the same.
RANKS: Final[Mapping[str, int]] = {state: rank for rank, state in enumerate(ORDER_STATES)}

# Where the arrows lead. VirtualSMS draws all of them (API reference, "Order state machine"); the
# one from waiting to itself is a swap, which leaves the order waiting with another number.
# DaisySIM's activations go from Waiting to Completed or cancelled (API page, "Poll for Code" and
# "History"): for us that is received with the code, and confirmed with the provider's word for it.
DRAWN: Final[Mapping[str, frozenset[str]]] = {
    CREATED: frozenset({WAITING}),
    WAITING: frozenset({WAITING, RECEIVED, CANCELLED, EXPIRED}),
    RECEIVED: frozenset({CONFIRMED}),
    CONFIRMED: frozenset(),
    CANCELLED: frozenset(),
    EXPIRED: frozenset(),
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


def is_drawn(before: str, after: str) -> bool:
    """Whether arrows lead from one state to another, be it over states that nobody reported."""
    reached, new = frozenset[str](), DRAWN[before]
    while not new <= reached:
        reached |= new
        new = frozenset[str]().union(*(DRAWN[state] for state in new))
    return after in reached
