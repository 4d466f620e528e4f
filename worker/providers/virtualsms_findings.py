"""What VirtualSMS's answers say of an order, and the webhook that would have said it."""

from __future__ import annotations

from datetime import datetime, timedelta

from worker.order_states import RANKS
from worker.providers.findings import Finding, Rhythm
from worker.providers.virtualsms_orders import Order

# Webhooks are repeated for 15 hours, so nothing is lost by asking at leisure.
RHYTHM = Rhythm(
    one="get_order",
    many="list_orders",
    every=timedelta(seconds=60),
    back=timedelta(minutes=10),
    crowd=3,
    # Its end comes with every answer about an order; this is for one never answered for.
    lifetime=timedelta(hours=1),
    ends_silently=False,
)


def of_order(order: Order) -> Finding:
    """What an answer says of an order."""
    return Finding(
        order_id=order.order_id,
        status=order.status if order.status in RANKS else None,
        phone_number=order.phone_number,
        service=order.service,
        country=order.country,
        price=order.price,
        code=order.code,
        text=order.text,
        created_at=order.created_at,
        received_at=order.received_at,
        confirmed_at=order.confirmed_at,
        expires_at=order.expires_at,
    )


def webhook(finding: Finding) -> dict[str, object]:
    """The body that reports the finding's message (API reference, "Webhooks")."""
    return {
        "type": "order.sms_received",
        "data": {
            "order_id": finding.order_id,
            "phone_number": finding.phone_number,
            "service": finding.service,
            "country": finding.country,
            "code": finding.code,
            "full_text": finding.text,
            "received_at": _iso(finding.received_at),
        },
    }


def _iso(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat()
