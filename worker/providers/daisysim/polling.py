"""How often DaisySIM is asked about orders, and the webhook that would have told of a code."""

from __future__ import annotations

from datetime import timedelta

from worker.providers.reported_order import PollingPolicy, ReportedOrder

# A webhook comes once and never again, so what it would have said is asked for soon.
POLLING_POLICY = PollingPolicy(
    one="check",
    many="history",
    every=timedelta(seconds=20),
    back=timedelta(minutes=5),
    crowd=20,
    # The API page: polling stops then. Counted by our own clock: which one a history goes by is
    # not said.
    lifetime=timedelta(minutes=20),
    ends_silently=True,
)


def webhook(reported: ReportedOrder) -> dict[str, object]:
    """The body that reports the finding's code (API page, "Webhooks"), without what is unknown.

    When the code came is not said in any answer.
    """
    return {
        "event": "code.received",
        "activation_id": reported.order_id,
        "phone_number": reported.phone_number,
        "service": reported.service,
        "code": reported.code,
    }
