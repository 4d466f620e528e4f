"""Which orders are confirmed, which codes are verified, and the default routing."""

from __future__ import annotations

from worker.configuration.event_policy import EventPolicy
from worker.configuration.routing import Routing, Subject

POLICY = EventPolicy(
    confirming=frozenset({"virtualsms"}),
    verifying=frozenset({"daisysim"}),
    confirmed_services=frozenset({"telegram"}),
    routing=Routing(["slack", "mail"]),
)


def test_orders_are_confirmed_if_provider_and_service_allow_it() -> None:
    """The provider's API must support it, and the service must be configured."""
    assert POLICY.confirms("virtualsms", "telegram")
    assert not POLICY.confirms("virtualsms", "whatsapp")
    assert not POLICY.confirms("virtualsms", None)
    assert not POLICY.confirms("daisysim", "telegram")
    assert POLICY.confirms("virtualsms", "tg", "Telegram")
    assert not POLICY.confirms("virtualsms", "tg", None)


def test_codes_are_verified_if_the_provider_can() -> None:
    """Webhooks of the other providers are signed."""
    assert POLICY.verifies("daisysim")
    assert not POLICY.verifies("virtualsms")


def test_without_routes_every_destination_receives_codes_and_low_balances() -> None:
    """It receives no other events, but also the operator notices."""
    every_destination = ["mail", "slack"]
    assert POLICY.routing.of(Subject(type="sms.received", provider="p")) == every_destination
    assert POLICY.routing.of(Subject(type="balance.low", provider="p")) == every_destination
    assert POLICY.routing.of(Subject(type="order.confirmed", provider="p")) == []
    assert POLICY.routing.operators() == every_destination
