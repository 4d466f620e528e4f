"""What DaisySIM's answers say of an order, and the webhook that would have said it."""

from __future__ import annotations

from datetime import timedelta

from worker.order_states import CANCELLED, CONFIRMED, EXPIRED, WAITING
from worker.providers.daisysim_results import Activation, Check
from worker.providers.findings import Finding, Rhythm

# A webhook comes once and never again, so what it would have said is asked for soon.
RHYTHM = Rhythm(
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
# The first three are the document's, as `check` or as `history` spells them.
_STATES = {
    "waiting": WAITING,
    "completed": CONFIRMED,
    "cancelled": CANCELLED,
    "canceled": CANCELLED,
    "refunded": CANCELLED,
    "expired": EXPIRED,
}


def of_check(answer: Check, activation_id: str) -> Finding:
    """What ``check`` says of the activation that was asked for."""
    return Finding(
        order_id=activation_id,
        status=_STATES.get(answer.status.lower()),
        phone_number=answer.phone_number,
        code=answer.code,
    )


def of_activation(activation: Activation) -> Finding:
    """What a line of the history says."""
    return Finding(
        order_id=activation.activation_id,
        status=_STATES.get((activation.status or "").lower()),
        phone_number=activation.phone_number,
        service=activation.service,
        country=activation.country,
        price=activation.price,
        code=activation.code,
        created_at=activation.created_at,
    )


def webhook(finding: Finding) -> dict[str, object]:
    """The body that reports the finding's code (API page, "Webhooks"), without what is unknown.

    When the code came is not said in any answer.
    """
    return {
        "event": "code.received",
        "activation_id": finding.order_id,
        "phone_number": finding.phone_number,
        "service": finding.service,
        "code": finding.code,
    }
