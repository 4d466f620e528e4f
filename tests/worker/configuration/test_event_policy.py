"""What an installation does about an event."""

from __future__ import annotations

from worker.configuration.event_policy import EventPolicy
from worker.configuration.routing import Routing, Subject

POLICY = EventPolicy(
    confirming=frozenset({"virtualsms"}),
    verifying=frozenset({"daisysim"}),
    confirmed_services=frozenset({"telegram"}),
    routing=Routing(["slack", "mail"]),
)


def test_orders_are_confirmed_where_that_is_possible_and_wanted() -> None:
    """The provider must be able to, and the service be named."""
    assert POLICY.confirms("virtualsms", "telegram")
    assert not POLICY.confirms("virtualsms", "whatsapp")
    assert not POLICY.confirms("virtualsms", None)
    assert not POLICY.confirms("daisysim", "telegram")


def test_codes_are_verified_where_that_is_possible() -> None:
    """A provider that signs what it sends needs no asking."""
    assert POLICY.verifies("daisysim")
    assert not POLICY.verifies("virtualsms")


def test_without_routes_everybody_hears_of_codes_and_low_balances() -> None:
    """And of nothing else; the operators are everybody too."""
    everybody = ["mail", "slack"]
    assert POLICY.routing.of(Subject(type="sms.received", provider="p")) == everybody
    assert POLICY.routing.of(Subject(type="balance.low", provider="p")) == everybody
    assert POLICY.routing.of(Subject(type="order.confirmed", provider="p")) == []
    assert POLICY.routing.operators() == everybody
