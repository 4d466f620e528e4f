"""DaisySIM as it is inside: an account and its activations.

Where the API page is silent: an activation that nobody cancels and no code reaches ends like a
cancelled one when its window closes, with its money back; whatever else comes to a completed
one changes nothing.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Final, Literal

from receiver.events import SmsReceived
from worker.simulator.catalogue import COUNTRIES, SERVICES, Country, Service, phone_number
from worker.simulator.knobs import Dice, Knobs
from worker.simulator.refusals import Refused
from worker.simulator.reports import Tell
from worker.simulator.signed_webhooks import Facts
from worker.simulator.timeline import Timeline
from worker.simulator.wallet import Wallet

WAITING, COMPLETED, CANCELLED = "Waiting", "Completed", "Cancelled"

# A number costs this many times what it costs at VirtualSMS, in the cheap and in the dear tier.
TIERS: Final = (Decimal("2.5"), Decimal("3.1"))
_HOLD = timedelta(seconds=60)


@dataclass(slots=True, kw_only=True)
class Activation:
    """A number that was bought for a service."""

    activation_id: str
    phone_number: str = field(repr=False)
    service: str
    country: Country
    price: Decimal
    created_at: datetime
    status: str = WAITING
    code: str | None = field(default=None, repr=False)


class DaisySIM:
    """One account; every method may be called from any thread.

    A method that an API call stands for raises Refused as the call would be refused.

    Attributes:
        standing: whether the account may do anything.
    """

    def __init__(self, knobs: Knobs, timeline: Timeline, tell: Tell) -> None:
        self._knobs = knobs
        self._dice = Dice(knobs.seed)
        self._timeline = timeline
        self._tell = tell
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
        """What completed activations have cost."""
        with self._lock:
            done = (a.price for a in self.activations.values() if a.status == COMPLETED)
            return sum(done, self.wallet.rounded(Decimal(0)))

    def prices(self, service: Service, country: Country) -> list[Decimal]:
        """What a number costs in each tier, to the digit that a purchase must repeat."""
        return [self.wallet.rounded(service.price * country.factor * tier) for tier in TIERS]

    def find(self, activation_id: str) -> Activation:
        """An activation by its id."""
        activation = self.activations.get(activation_id)
        if activation is None:
            raise Refused("NOT_FOUND", "Activation not found")
        return activation

    def newest(self, status: str | None = None) -> list[Activation]:
        """The activations, all or those in a state, the newest first."""
        with self._lock:
            found = reversed(self.activations.values())
            return [a for a in found if status is None or a.status == status]

    def purchase(
        self, service: Service, country: Country, price: Decimal, service_name: str | None = None
    ) -> Activation:
        """Buy a number at a price that :meth:`prices` gave."""
        with self._lock:
            prices = self.prices(service, country)
            # As written: 1.14 is another text than 1.1400, and so is no price that was given.
            tier = next((n for n, p in enumerate(prices) if p.as_tuple() == price.as_tuple()), None)
            if not any(self.stock[service.code, country.id, n] for n in range(len(TIERS))):
                raise Refused("NO_NUMBERS_AVAILABLE", "No numbers available")
            if tier is None:
                raise Refused("INVALID_PRICE", "Price does not match current pricing")
            if not self.stock[service.code, country.id, tier]:
                raise Refused("NO_NUMBERS_AVAILABLE", "No numbers available at this price")
            place = len(self.activations) + 1
            activation_id = str(100_000_000 + self._dice.number(800_000_000, "ids") + place)
            try:
                self.wallet.book("purchase", -price, activation_id, self._timeline.now())
            except ValueError:
                raise Refused("INSUFFICIENT_BALANCE", "Insufficient balance") from None
            self.stock[service.code, country.id, tier] -= 1
            activation = Activation(
                activation_id=activation_id,
                phone_number=phone_number(country, self._dice, place),
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
        """Let the code reach an activation that waits, and tell of it, once."""
        with self._lock:
            activation = self.find(activation_id)
            if activation.status != WAITING:
                return activation
            activation.code = code or f"{self._dice.number(10**6, 'code', activation_id):06}"
            activation.status = COMPLETED
            self._tell(
                SmsReceived.type,
                Facts(
                    order=activation_id,
                    code=activation.code,
                    phone=activation.phone_number,
                    service=activation.service,
                    at=self._timeline.now(),
                ),
            )
            return activation

    def cancel(self, activation_id: str) -> Activation:
        """Give an activation up that is a minute old and has no code; the money goes back."""
        with self._lock:
            activation = self.find(activation_id)
            if activation.status == COMPLETED:
                raise Refused("CODE_RECEIVED", "Cannot cancel: a code was received")
            if activation.status == CANCELLED:
                raise Refused("ALREADY_REFUNDED", "Already refunded")
            if self._timeline.now() < activation.created_at + _HOLD:
                raise Refused("TOO_EARLY", "Cannot cancel within 60 seconds of the purchase")
            return self._give_back(activation)

    def expire(self, activation_id: str) -> Activation:
        """Let an activation's window end now, if no code has come."""
        with self._lock:
            activation = self.find(activation_id)
            return self._give_back(activation) if activation.status == WAITING else activation

    def _give_back(self, activation: Activation) -> Activation:
        activation.status = CANCELLED
        now = self._timeline.now()
        self.wallet.book("refund", activation.price, activation.activation_id, now)
        return activation
