"""Orders as the providers report them, and the webhook bodies made from them."""

from __future__ import annotations

import pytest

from receiver.events import SmsReceived
from receiver.providers.registry import registry
from tests.worker.providers.conftest import Provider
from worker.orders.state_machine import RANKS
from worker.providers.capabilities import ReportsOrders
from worker.providers.daisysim.api import DaisySIM
from worker.providers.registry import provider_apis
from worker.providers.reported_order import ReportedOrder
from worker.providers.virtualsms.api import VirtualSMS

CODE = "048392"
PHONE = "+79001234567"


@pytest.fixture(params=sorted(provider_apis()))
def client(request: pytest.FixtureRequest) -> ReportsOrders:
    """Each provider that can be polled."""
    found = request.getfixturevalue(request.param)
    assert isinstance(found, ReportsOrders)
    return found


def test_the_receiver_reads_the_webhook_body(client: ReportsOrders) -> None:
    """With all fields, and with the code alone."""
    name = client.name  # type: ignore[attr-defined]
    full = ReportedOrder(
        order_id="123456789", phone_number=PHONE, service="wa", code=CODE, text=f"It is {CODE}"
    )
    for reported in (full, ReportedOrder(order_id="123456789", code=CODE)):
        event = registry()[name].read(client.webhook(reported))
        assert isinstance(event, SmsReceived)
        assert (event.order_id, event.code) == (reported.order_id, CODE)
        assert (event.phone_number, event.service) == (reported.phone_number, reported.service)


def test_polling_calls_exist(client: ReportsOrders) -> None:
    """The polling policy names calls of the API that spend nothing."""
    calls, polling_policy = client.calls, client.polling_policy()  # type: ignore[attr-defined]
    assert not any(
        calls[name].spends for name in (polling_policy.order_call, polling_policy.page_call)
    )


def test_repr_shows_no_secret() -> None:
    """Code, text and phone number are not in the repr."""
    shown = repr(ReportedOrder(order_id="1", code=CODE, text="a text", phone_number=PHONE))
    for secret in (CODE, "a text", PHONE):
        assert secret not in shown


@pytest.mark.parametrize(
    ("word", "status"),
    [
        ("Waiting", "waiting"),
        ("Completed", "confirmed"),
        ("cancelled", "cancelled"),
        ("Strange", None),
    ],
)
def test_an_activation(
    daisysim: DaisySIM, provider: Provider, word: str, status: str | None
) -> None:
    """Documented states are translated; the history also has the creation time."""
    provider.answers(f'{{"data": {{"status": "{word}", "code": "{CODE}"}}}}')
    found = daisysim.find_order("123456789")
    assert (found.order_id, found.status, found.code) == ("123456789", status, CODE)
    provider.answers(
        f'{{"success": true, "data": {{"orders": [{{"activation_id": "1", "status": "{word}",'
        f'"code": "{CODE}", "created_at": "2026-05-01T10:00:00Z"}}]}}}}'
    )
    (line,) = daisysim.find_orders(2)
    assert (line.order_id, line.status, line.code) == ("1", status, CODE)
    assert line.created_at is not None
    assert line.created_at.isoformat() == "2026-05-01T10:00:00+00:00"
    asked = provider.requests[-1]
    assert (asked.method, asked.path) == ("GET", "/api/v1/virtual/history")
    assert asked.query == {"page": "2", "per_page": "100"}


@pytest.mark.parametrize("written", ["79001234567", "+7 900 123-45-67", "09001234567"])
def test_a_number_without_a_prefix_keeps_its_form(
    daisysim: DaisySIM, virtualsms: VirtualSMS, provider: Provider, written: str
) -> None:
    """Only the order's country can tell what it means."""
    shown = PHONE if "+" in written else written
    provider.answers(f'{{"data": {{"status": "Waiting", "phone_number": "{written}"}}}}')
    assert daisysim.check("1").phone_number == shown
    assert daisysim.find_order("1").phone_number == shown
    provider.answers(f'{{"order_id": "1", "phone": "{written}"}}')
    assert virtualsms.find_order("1").phone_number == shown


@pytest.mark.parametrize("word", [*RANKS, "sms_received", "completed", "strange"])
def test_an_order(virtualsms: VirtualSMS, provider: Provider, word: str) -> None:
    """Documented states are translated; an unknown word is no state."""
    provider.answers(f'{{"order_id": "ord_1", "status": "{word}"}}')
    status = virtualsms.find_order("ord_1").status
    assert (status in RANKS) == (word != "strange")
    provider.answers(f'{{"orders": [{{"order_id": "ord_1", "status": "{word}"}}]}}')
    (line,) = virtualsms.find_orders(3)
    assert line.status == status
    asked = provider.requests[-1]
    assert (asked.method, asked.path) == ("GET", "/api/v2/orders")
    assert asked.query == {"page": "3", "limit": "100"}
