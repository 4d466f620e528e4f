"""The properties of every provider's calls, and the orders in their results."""

from __future__ import annotations

import inspect
from decimal import Decimal

import pytest

from worker.orders.state_machine import RANKS
from worker.providers.base import Call, ProviderApi
from worker.providers.daisysim import results
from worker.providers.registry import provider_apis
from worker.providers.reported_order import ReportedOrder, order_state
from worker.providers.virtualsms import orders as virtualsms_orders
from worker.schema.states import CANCELLED, CONFIRMED, EXPIRED, ORDER_STATES, RECEIVED, WAITING

CALLS = [
    pytest.param(api, call, id=f"{name} {call.name}")
    for name, api in provider_apis().items()
    for call in api.calls.values()
]


@pytest.mark.parametrize(("api", "call"), CALLS)
def test_a_call_that_spends_has_a_lookup(api: type[ProviderApi], call: Call) -> None:
    """The lookup spends nothing, and takes a subset of the call's arguments."""
    assert (call.lookup is not None) is call.spends
    if call.lookup is None:
        assert call.state is None
        return
    lookup = api.calls[call.lookup]
    assert not lookup.spends
    given = inspect.signature(getattr(api, call.name)).parameters
    wanted = inspect.signature(getattr(api, call.lookup)).parameters.values()
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
    """The words of `check` and `history` become order states; others become None."""
    check = results.Check.read({"status": word, "code": "1"})
    assert check.as_reported_order({"activation_id": "9"}) == ReportedOrder(
        order_id="9", status=state, code="1"
    )
    line = results.Activation.read({"id": "9", "status": word, "price": "1.1400"})
    assert line.as_reported_order({}) == ReportedOrder(
        order_id="9", status=state, price=Decimal("1.1400")
    )


@pytest.mark.parametrize(
    ("word", "state"),
    [
        *[(word, word) for word in ORDER_STATES],
        ("SMS_RECEIVED", RECEIVED),
        ("sms-received", RECEIVED),
        ("Sms Received", RECEIVED),
        (" COMPLETED ", CONFIRMED),
        ("Canceled", CANCELLED),
        ("refunded", CANCELLED),
        ("pending", WAITING),
        ("timeout", EXPIRED),
        ("archived", None),
        ("", None),
        (None, None),
    ],
)
def test_words_for_states(word: str | None, state: str | None) -> None:
    """In any case, with the words of every version of the APIs."""
    assert order_state(word) == state


def test_daisysim_purchase() -> None:
    """Fields that the response lacks come from the arguments."""
    made = {"activation_id": "9", "phone_number": "+79001234567"}
    arguments = {"country": 6, "service": "wa", "price": Decimal("1.10"), "service_name": None}
    order = results.Purchase.read(made).as_reported_order(arguments)
    assert (order.service, order.country, order.price) == ("wa", "6", Decimal("1.10"))
    charged = results.Purchase.read({**made, "amount_charged": "1.0000"})
    assert (
        str(charged.as_reported_order({**arguments, "service_name": "WhatsApp"}).price) == "1.0000"
    )
    assert "7900" not in repr(order)


@pytest.mark.parametrize(
    ("word", "state"), [("sms_received", RECEIVED), ("completed", CONFIRMED), ("Archived", None)]
)
def test_virtualsms_states(word: str, state: str | None) -> None:
    """The words of every API version become order states; others become None."""
    payload = {"order_id": "o-1", "status": word}
    assert virtualsms_orders.Order.read(payload).as_reported_order({}).status == state
    assert virtualsms_orders.Sms.read(payload, "o-1").as_reported_order({}).status == state
