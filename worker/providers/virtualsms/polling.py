"""How often VirtualSMS is asked about orders, and the webhook that would have told of a message."""

from __future__ import annotations

from datetime import datetime, timedelta

from worker.providers.reported_order import PollingPolicy, ReportedOrder

# Webhooks are repeated for 15 hours, so nothing is lost by asking at leisure.
POLLING_POLICY = PollingPolicy(
    one="get_order",
    many="list_orders",
    every=timedelta(seconds=60),
    back=timedelta(minutes=10),
    crowd=3,
    # Its end comes with every answer about an order; this is for one never answered for.
    lifetime=timedelta(hours=1),
    ends_silently=False,
)


def webhook(reported: ReportedOrder) -> dict[str, object]:
    """The body that reports the finding's message (API reference, "Webhooks")."""
    return {
        "type": "order.sms_received",
        "data": {
            "order_id": reported.order_id,
            "phone_number": reported.phone_number,
            "service": reported.service,
            "country": reported.country,
            "code": reported.code,
            "full_text": reported.text,
            "received_at": _iso(reported.received_at),
        },
    }


def _iso(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat()
