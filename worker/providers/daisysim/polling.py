"""How often to poll DaisySIM's activations, and the webhook body for a code found that way."""

from __future__ import annotations

from datetime import timedelta

from worker.providers.reported_order import PollingPolicy, ReportedOrder

# DaisySIM does not retry a webhook, so lost ones are found soon.
POLLING_POLICY = PollingPolicy(
    order_call="check",
    page_call="history",
    interval=timedelta(seconds=20),
    history_interval=timedelta(minutes=5),
    bulk_threshold=20,
    # From the API page: polling stops then. Measured with our own clock, because the time zone of
    # the history is not documented.
    lifetime=timedelta(minutes=20),
    expires_silently=True,
)


def webhook(reported: ReportedOrder) -> dict[str, object]:
    """Return the body that reports a code (API page, "Webhooks").

    It has no ``received_at``: no response of the API has the time of the code.
    """
    return {
        "event": "code.received",
        "activation_id": reported.order_id,
        "phone_number": reported.phone_number,
        "service": reported.service,
        "code": reported.code,
    }
