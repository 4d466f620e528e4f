"""How often VirtualSMS is asked about orders, and the webhook that would have told of a message."""

from __future__ import annotations

from datetime import datetime, timedelta

from worker.providers.reported_order import Finding, Rhythm

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
