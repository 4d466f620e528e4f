"""How often to poll VirtualSMS's orders, and the webhook body for a message found that way."""

from __future__ import annotations

from datetime import timedelta

from receiver.clock import iso
from worker.providers.reported_order import PollingPolicy, ReportedOrder

# VirtualSMS retries webhooks for 15 hours, so slow polling loses nothing.
POLLING_POLICY = PollingPolicy(
    order_call="get_order",
    page_call="list_orders",
    interval=timedelta(seconds=60),
    history_interval=timedelta(minutes=10),
    bulk_threshold=3,
    # Every response about an order has its end; this is for an order without any response.
    lifetime=timedelta(hours=1),
    expires_silently=False,
)


def webhook(reported: ReportedOrder) -> dict[str, object]:
    """Return the body that reports a message (API reference, "Webhooks")."""
    received = reported.received_at
    return {
        "type": "order.sms_received",
        "data": {
            "order_id": reported.order_id,
            "phone_number": reported.phone_number,
            "service": reported.service,
            "country": reported.country,
            "code": reported.code,
            "full_text": reported.text,
            "received_at": received and iso(received, "microseconds"),
        },
    }
