"""An order of VirtualSMS: what is known of it, and what its state allows."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from typing import NoReturn

from worker.simulator.catalogue import COUNTRIES, SERVICES, Country, Service
from worker.simulator.refusals import Refused

CREATED, WAITING, RECEIVED = "created", "waiting", "received"
CONFIRMED, CANCELLED, EXPIRED = "confirmed", "cancelled", "expired"


@dataclass(frozen=True, slots=True)
class Message:
    """A text message that reached an order's number."""

    code: str = field(repr=False)
    text: str = field(repr=False)
    received_at: datetime


@dataclass(slots=True, kw_only=True)
class Order:
    """A number that is ordered for a service; each check raises Refused where it fails."""

    order_id: str
    service: str
    country: Country
    price: Decimal
    created_at: datetime
    expires_at: datetime
    rental: bool
    phone_number: str = field(repr=False)
    former_numbers: list[str] = field(default_factory=list, repr=False)
    status: str = CREATED
    messages: list[Message] = field(default_factory=list)
    confirmed_at: datetime | None = None

    @property
    def waits(self) -> bool:
        """Whether its first message is still to come."""
        return self.status in {CREATED, WAITING}

    def check_unfinished(self) -> None:
        """It can go on."""
        if self.status == CONFIRMED:
            raise Refused("order-already-confirmed", "the order is confirmed and charged")
        if self.status == EXPIRED:
            raise Refused("order-expired", "the order's window has passed")

    def check_received(self) -> None:
        """Its message has come, and it is not confirmed yet."""
        self.check_unfinished()
        if self.status != RECEIVED:
            raise Refused("validation", f"the order is {self.status}: it has no message")

    def check_changeable(self, hold: timedelta) -> None:
        """It can be swapped or cancelled, once ``hold`` is over."""
        self.check_unfinished()
        if not self.waits:
            raise Refused("validation", f"the order is {self.status}: too late for that")
        if hold > timedelta(0):
            raise Refused("too-early", f"wait {hold.total_seconds():.0f} s more")

    def check_rental(self) -> None:
        """It is a rental that goes on."""
        self.check_unfinished()
        if not self.rental or self.status == CANCELLED:
            raise Refused("validation", "the order is no rental that goes on")


def find_service(name: str) -> Service:
    """A service by its id; raises Refused."""
    return next((s for s in SERVICES if s.id == name), None) or _unknown("service", name)


def find_country(iso2: str) -> Country:
    """A country by its two letters in either case; raises Refused."""
    wanted = iso2.upper()
    return next((c for c in COUNTRIES if c.iso2 == wanted), None) or _unknown("country", iso2)


def _unknown(what: str, name: str) -> NoReturn:
    raise Refused(f"{what}-not-found", f"there is no {what} {name[:40]}")
