"""What the calls of every provider say of themselves, and their answers of an order."""

from __future__ import annotations

import inspect
from decimal import Decimal

import pytest

from worker.orders.state_machine import RANKS
from worker.providers.base import Call, ProviderApi
from worker.providers.daisysim import results
from worker.providers.registry import provider_apis
from worker.providers.reported_order import ReportedOrder
from worker.providers.virtualsms import orders as virtualsms_orders
from worker.schema.states import CANCELLED, CONFIRMED, EXPIRED, RECEIVED, WAITING

CALLS = [
    pytest.param(api, call, id=f"{name} {call.name}")
    for name, api in provider_apis().items()
    for call in api.calls.values()
]


@pytest.mark.parametrize(("api", "call"), CALLS)
def test_a_call_that_spends_says_how_to_look(api: type[ProviderApi], call: Call) -> None:
    """By a call that spends nothing, whose arguments the first one was given."""
    assert (call.look is not None) is call.spends
    if call.look is None:
        assert call.state is None
        return
    look = api.calls[call.look]
    assert not look.spends
    given = inspect.signature(getattr(api, call.name)).parameters
    wanted = inspect.signature(getattr(api, call.look)).parameters.values()
    assert {each.name for each in wanted if each.default is each.empty} <= set(given)
    assert call.state is None or call.state in RANKS


@pytest.mark.parametrize(
    ("word", "state"),
    [
        ("Waiting", WAITING),
        ("Completed", CONFIRMED),
        ("cancelled", CANCELLED),
        ("Expired", EXPIRED),
        ("Odd", None),
    ],
)
def test_daisysim_states(word: str, state: str | None) -> None:
    """The words of `check` and `history`, in the order's own; others say nothing."""
    check = results.Check.read({"status": word, "code": "1"})
    assert check.about_order({"activation_id": "9"}) == ReportedOrder(
        order_id="9", status=state, code="1"
    )
    line = results.Activation.read({"id": "9", "status": word, "price": "1.1400"})
    assert line.about_order({}) == ReportedOrder(
        order_id="9", status=state, price=Decimal("1.1400")
    )


def test_daisysim_purchase() -> None:
    """What the answer leaves out is known from what was asked; what it tells comes first."""
    made = {"activation_id": "9", "phone_number": "+79001234567"}
    asked = {"country": 6, "service": "wa", "price": Decimal("1.10"), "service_name": None}
    facts = results.Purchase.read(made).about_order(asked)
    assert (facts.service, facts.country, facts.price) == ("wa", "6", Decimal("1.10"))
    charged = results.Purchase.read({**made, "amount_charged": "1.0000"})
    assert str(charged.about_order({**asked, "service_name": "WhatsApp"}).price) == "1.0000"
    assert "7900" not in repr(facts)


@pytest.mark.parametrize(
    ("word", "state"), [("sms_received", RECEIVED), ("completed", CONFIRMED), ("Archived", None)]
)
def test_virtualsms_states(word: str, state: str | None) -> None:
    """The states of the diagram, whichever variant names them; others say nothing."""
    told = {"order_id": "o-1", "status": word}
    assert virtualsms_orders.Order.read(told).about_order({}).status == state
    assert virtualsms_orders.Sms.read(told, "o-1").about_order({}).status == state
