"""An order as its provider reports it, in provider-neutral words, and how often to poll."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal

from worker.schema.states import CANCELLED, CONFIRMED, EXPIRED, ORDER_STATES, RECEIVED, WAITING

# The documented words, and those of other versions of the APIs.
_STATES = {
    **{state: state for state in ORDER_STATES},
    **dict.fromkeys(("pending", "active", "swapped", "waiting_for_sms"), WAITING),
    **dict.fromkeys(("sms_received", "code_received"), RECEIVED),
    **dict.fromkeys(("completed", "complete", "finished"), CONFIRMED),
    **dict.fromkeys(("canceled", "refunded"), CANCELLED),
    **dict.fromkeys(("timeout", "timed_out"), EXPIRED),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportedOrder:
    """What a provider reports about one order; None for everything that it leaves out.

    ``status`` is one of :data:`worker.schema.states.ORDER_STATES`, and None also for an unknown
    word. ``service_alias`` is another name of the service. ``code_is_number``: the code came as a
    number, so zeros may be missing at its beginning. ``received_at`` is when the code arrived.
    """

    order_id: str
    status: str | None = None
    phone_number: str | None = field(default=None, repr=False)
    service: str | None = None
    service_alias: str | None = None
    country: str | None = None
    price: Decimal | None = None
    code: str | None = field(default=None, repr=False)
    code_is_number: bool = False
    text: str | None = field(default=None, repr=False)
    created_at: datetime | None = None
    received_at: datetime | None = None
    confirmed_at: datetime | None = None
    expires_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PollingPolicy:
    """How to poll a provider's orders.

    Attributes:
        order_call: name of the call that returns one order.
        page_call: name of the call that returns a page of orders, newest first.
        interval: between two polls of an open order, while the budget allows.
        history_interval: between two passes over the newest orders, back to the last known one.
        bulk_threshold: from this number of open orders on, such a pass is made every
            ``interval``, because a page covers more of them than one call each.
        lifetime: how long an order is open if the provider does not say when it ends.
        expires_silently: the provider does not report expiry: an order that is past its end and
            has no other status has expired.
    """

    order_call: str
    page_call: str
    interval: timedelta
    history_interval: timedelta
    bulk_threshold: int
    lifetime: timedelta
    expires_silently: bool


def order_state(word: str | None) -> str | None:
    """Return the state that a provider's ``word`` stands for, in any case; None if unknown."""
    return _STATES.get(re.sub(r"[\W_]+", "_", word.strip().lower())) if word else None
