"""How an order stands, as its provider says when asked, and how often it is worth asking.

In words that no provider owns.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportedOrder:
    """What is said of one order; anything may be left unsaid, and is None then.

    ``status`` is one of :data:`worker.schema.states.ORDER_STATES`, None also where the answer has
    another word. ``received_at`` is when the code came.
    """

    order_id: str
    status: str | None = None
    phone_number: str | None = field(default=None, repr=False)
    service: str | None = None
    country: str | None = None
    price: Decimal | None = None
    code: str | None = field(default=None, repr=False)
    text: str | None = field(default=None, repr=False)
    created_at: datetime | None = None
    received_at: datetime | None = None
    confirmed_at: datetime | None = None
    expires_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PollingPolicy:
    """How a provider's orders are watched.

    Attributes:
        one: the name of the call that answers for one order.
        many: the name of the call that answers for a page of them, newest first.
        every: between two questions about an open order, while the budget allows.
        back: between two passes over the newest orders, back to the last one known.
        crowd: with so many orders open, such a pass is made ``every`` time: a page answers for
            more of them than one call each would.
        lifetime: how long an order is open, where nobody said when it ends.
        ends_silently: an order that is past its end, and of which the provider has no more to
            say, has expired.
    """

    one: str
    many: str
    every: timedelta
    back: timedelta
    crowd: int
    lifetime: timedelta
    ends_silently: bool
