"""Events: their type names are the documented ones, and their reprs show no secret."""

from __future__ import annotations

from datetime import UTC, datetime

from receiver import events
from receiver.inbox.store import IncomingEvent
from receiver.providers.base import WebhookRequest

AT = datetime(2026, 6, 11, 9, 14, 27, tzinfo=UTC)


def test_the_types_are_the_documented_ones() -> None:
    """Every event class has its own type, and together they are the documented list."""
    classes = [
        kind
        for kind in vars(events).values()
        if isinstance(kind, type)
        and issubclass(kind, events.Event)
        and kind not in (events.Event, events.OrderEvent)
    ]
    assert sorted(kind.type for kind in classes) == [
        "balance.deposited",
        "balance.low",
        "order.cancelled",
        "order.confirmed",
        "order.expired",
        "order.swapped",
        "sms.received",
        "unknown",
    ]


def test_nothing_secret_shows_in_a_repr() -> None:
    """Code, text, phone number, body and token do not appear in a repr."""
    secrets = ("483921", "Your code", "+447700900123", "made-up-token")
    event = events.SmsReceived(
        provider="virtualsms",
        at=AT,
        order_id="ord_1",
        phone_number="+447700900123",
        code="483921",
        text="Your code: 483921",
    )
    incoming = IncomingEvent(provider="virtualsms", body=b'{"code":"483921"}', arrived_at=AT)
    request = WebhookRequest(
        headers=[(b"x-codecatch-token", b"made-up-token")],
        body=b'{"code":"483921"}',
        token="made-up-token",
        at=AT,
    )
    shown = f"{event!r} {incoming!r} {request!r}"
    assert "ord_1" in shown
    assert not any(secret in shown for secret in secrets)
