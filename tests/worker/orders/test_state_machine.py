"""The order's state machine, as data."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from receiver.events import (
    OrderCancelled,
    OrderConfirmed,
    OrderEvent,
    OrderExpired,
    OrderSwapped,
    SmsReceived,
)
from worker.orders import state_machine
from worker.schema.states import WAITING

ORDER: dict[str, Any] = {"provider": "virtualsms", "order_id": "ord_1"}


@pytest.mark.parametrize(
    ("event", "state"),
    [
        (SmsReceived(**ORDER, code="1234"), "received"),
        (OrderConfirmed(**ORDER), "confirmed"),
        (OrderCancelled(**ORDER), "cancelled"),
        (OrderExpired(**ORDER), "expired"),
        (OrderSwapped(**ORDER), "waiting"),
    ],
    ids=lambda value: getattr(value, "type", value),
)
def test_every_event_of_an_order_reports_a_state(event: OrderEvent, state: str) -> None:
    """A swap has no state: the order waits again."""
    assert state_machine.reported(event) == state


def test_states_are_ranked() -> None:
    """From lowest to furthest, as the documentation says."""
    assert sorted(state_machine.RANKS, key=state_machine.RANKS.__getitem__) == [
        "created",
        "waiting",
        "expired",
        "cancelled",
        "received",
        "confirmed",
    ]


def test_the_furthest_state_does_not_depend_on_the_order_of_reports() -> None:
    """A maximum: commutative, associative and idempotent."""
    furthest = state_machine.furthest
    for a, b, c in itertools.product(state_machine.RANKS, repeat=3):
        assert furthest(a, b) == furthest(b, a)
        assert furthest(furthest(a, b), c) == furthest(a, furthest(b, c))
        assert furthest(a, a) == a


def test_documented_transitions() -> None:
    """Every pair of states; an undocumented one needs a late or a lost event."""
    ahead = {
        "created": {"waiting", "received", "confirmed", "cancelled", "expired"},
        "waiting": {"waiting", "received", "confirmed", "cancelled", "expired"},
        "received": {"confirmed"},
        "confirmed": set(),
        "cancelled": set(),
        "expired": set(),
    }
    for before, after in itertools.product(state_machine.RANKS, repeat=2):
        assert state_machine.is_documented(before, after) == (after in ahead[before]), (
            before,
            after,
        )


def test_no_documented_transition_leads_back() -> None:
    """Ranks and documents agree: only a swap leaves an order in its state."""
    for before, afters in state_machine.DOCUMENTED.items():
        for after in afters:
            further = state_machine.RANKS[after] > state_machine.RANKS[before]
            assert further or before == after == WAITING
