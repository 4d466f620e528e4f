"""A simulated DaisySIM account and its activations.

Assumptions where the API page says nothing: an activation that gets no code ends like a cancelled
one when its lifetime is over, with a refund; further codes do not change a completed activation.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Final, Literal

from receiver.events import SmsReceived
from worker.simulator.catalogue import COUNTRIES, SERVICES, Country, Service, phone_number
from worker.simulator.errors import ApiError
from worker.simulator.knobs import Knobs, SeededRandom
from worker.simulator.reports import ReportEvent
from worker.simulator.signed_webhooks import EventDetails
from worker.simulator.timeline import Timeline
from worker.simulator.wallet import Wallet

WAITING, COMPLETED, CANCELLED = "Waiting", "Completed", "Cancelled"

# The factors of the cheap and the expensive tier, on the price of a number at VirtualSMS.
TIERS: Final = (Decimal("2.5"), Decimal("3.1"))
_HOLD = timedelta(seconds=60)


@dataclass(slots=True, kw_only=True)
class Activation:
    """A number bought for a service."""

    activation_id: str
    phone_number: str = field(repr=False)
    service: str
    country: Country
    price: Decimal
    created_at: datetime
    status: str = WAITING
    code: str | None = field(default=None, repr=False)


class DaisySIM:
    """One account; every method is thread-safe.

    A method for an API call raises ApiError with the error that the call answers.

    Attributes:
        standing: a suspended or locked account may make no call.
    """

    def __init__(self, knobs: Knobs, timeline: Timeline, report: ReportEvent) -> None:
        self._knobs = knobs
        self._random = SeededRandom(knobs.seed)
        self._timeline = timeline
        self._report_event = report
        self._lock = threading.RLock()
        self.wallet = Wallet(knobs.balance, places=4)
        self.activations: dict[str, Activation] = {}
        self.stock = {
            (s.code, c.id, tier): c.stock
            for s in SERVICES
            for c in COUNTRIES
            for tier in range(len(TIERS))
        }
        self.standing: Literal["good", "suspended", "locked"] = "good"

    @property
    def total_spent(self) -> Decimal:
        """The sum of the prices of completed activations."""
        with self._lock:
            done = (a.price for a in self.activations.values() if a.status == COMPLETED)
            return sum(done, self.wallet.rounded(Decimal(0)))

    def prices(self, service: Service, country: Country) -> list[Decimal]:
        """The price of a number in each tier; a purchase must repeat it digit for digit."""
        return [self.wallet.rounded(service.price * country.factor * tier) for tier in TIERS]

    def find(self, activation_id: str) -> Activation:
        """An activation by its id."""
        activation = self.activations.get(activation_id)
        if activation is None:
            raise ApiError("NOT_FOUND", "Activation not found")
        return activation

    def newest(self, status: str | None = None) -> list[Activation]:
        """The activations, all or those in one state, newest first."""
        with self._lock:
            found = reversed(self.activations.values())
            return [a for a in found if status is None or a.status == status]

    def purchase(
        self, service: Service, country: Country, price: Decimal, service_name: str | None = None
    ) -> Activation:
        """Buy a number at a price from :meth:`prices`."""
        with self._lock:
            prices = self.prices(service, country)
            # Compared digit for digit: 1.14 does not match the listed price 1.1400.
            tier = next((n for n, p in enumerate(prices) if p.as_tuple() == price.as_tuple()), None)
            if not any(self.stock[service.code, country.id, n] for n in range(len(TIERS))):
                raise ApiError("NO_NUMBERS_AVAILABLE", "No numbers available")
            if tier is None:
                raise ApiError("INVALID_PRICE", "Price does not match current pricing")
            if not self.stock[service.code, country.id, tier]:
                raise ApiError("NO_NUMBERS_AVAILABLE", "No numbers available at this price")
            number = len(self.activations) + 1
            activation_id = str(100_000_000 + self._random.integer(800_000_000, "ids") + number)
            try:
                self.wallet.book("purchase", -price, activation_id, self._timeline.now())
            except ValueError:
                raise ApiError("INSUFFICIENT_BALANCE", "Insufficient balance") from None
            self.stock[service.code, country.id, tier] -= 1
            activation = Activation(
                activation_id=activation_id,
                phone_number=phone_number(country, self._random, number),
                service=service_name or service.name,
                country=country,
                price=price,
                created_at=self._timeline.now(),
            )
            self.activations[activation_id] = activation
            self._timeline.after(self._knobs.order_lifetime, lambda: self.expire(activation_id))
            if self._knobs.sms_after is not None:
                self._timeline.after(self._knobs.sms_after, lambda: self.deliver(activation_id))
            return activation

    def deliver(self, activation_id: str, code: str | None = None) -> Activation:
        """Deliver the code to an activation that waits, and report the event once."""
        with self._lock:
            activation = self.find(activation_id)
            if activation.status != WAITING:
                return activation
            activation.code = code or f"{self._random.integer(10**6, 'code', activation_id):06}"
            activation.status = COMPLETED
            self._report_event(
                SmsReceived.type,
                EventDetails(
                    order=activation_id,
                    code=activation.code,
                    phone=activation.phone_number,
                    service=activation.service,
                    at=self._timeline.now(),
                ),
            )
            return activation

    def cancel(self, activation_id: str) -> Activation:
        """Cancel an activation that is a minute old and has no code, and refund it."""
        with self._lock:
            activation = self.find(activation_id)
            if activation.status == COMPLETED:
                raise ApiError("CODE_RECEIVED", "Cannot cancel: a code was received")
            if activation.status == CANCELLED:
                raise ApiError("ALREADY_REFUNDED", "Already refunded")
            if self._timeline.now() < activation.created_at + _HOLD:
                raise ApiError("TOO_EARLY", "Cannot cancel within 60 seconds of the purchase")
            return self._refund(activation)

    def expire(self, activation_id: str) -> Activation:
        """Expire an activation now, if it has no code."""
        with self._lock:
            activation = self.find(activation_id)
            return self._refund(activation) if activation.status == WAITING else activation

    def _refund(self, activation: Activation) -> Activation:
        activation.status = CANCELLED
        now = self._timeline.now()
        self.wallet.book("refund", activation.price, activation.activation_id, now)
        return activation
