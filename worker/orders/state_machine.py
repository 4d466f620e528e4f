"""The order state machine, as data: events in any sequence lead to the same state.

Webhooks come late, twice and reordered, so an order's state is the furthest one ever reported: a
maximum does not depend on the sequence. The transitions that the providers document are kept
beside it, to tell a documented transition from one that only a late or lost event explains.
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

# From lowest to furthest. A code that comes after a cancellation still counts.
RANKS: Final[Mapping[str, int]] = {state: rank for rank, state in enumerate(ORDER_STATES)}

# VirtualSMS documents all of these (API reference, "Order state machine"); the one from waiting to
# itself is a swap, which leaves the order waiting with another number. DaisySIM's activations go
# from Waiting to Completed or cancelled (API page, "Poll for Code" and "History"): here, Completed
# means received when the code comes, and confirmed when the provider reports it.
DOCUMENTED: Final[Mapping[str, frozenset[str]]] = {
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
    """The state that ``event`` reports."""
    return REPORTED[type(event)]


def furthest(known: str, reported_state: str) -> str:
    """The further of two states."""
    return max(known, reported_state, key=RANKS.__getitem__)


def is_documented(before: str, after: str) -> bool:
    """Whether documented transitions lead from one state to another, unreported states between."""
    reached, new = frozenset[str](), DOCUMENTED[before]
    while not new <= reached:
        reached |= new
        new = frozenset[str]().union(*(DOCUMENTED[state] for state in new))
    return after in reached
