"""An order of VirtualSMS: its data, and what its state allows."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from typing import NoReturn

from worker.simulator.catalogue import COUNTRIES, SERVICES, Country, Service
from worker.simulator.errors import ApiError

CREATED, WAITING, RECEIVED = "created", "waiting", "received"
CONFIRMED, CANCELLED, EXPIRED = "confirmed", "cancelled", "expired"


@dataclass(frozen=True, slots=True)
class Message:
    """A text message to an order's number."""

    code: str = field(repr=False)
    text: str = field(repr=False)
    received_at: datetime


@dataclass(slots=True, kw_only=True)
class Order:
    """A number ordered for a service; a check that fails raises ApiError."""

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
    def is_waiting(self) -> bool:
        """Whether the order waits for its first message."""
        return self.status in {CREATED, WAITING}

    def check_unfinished(self) -> None:
        """The order must be neither confirmed nor expired."""
        if self.status == CONFIRMED:
            raise ApiError("order-already-confirmed", "the order is confirmed and charged")
        if self.status == EXPIRED:
            raise ApiError("order-expired", "the order's window has passed")

    def check_received(self) -> None:
        """The order must have a message and must not be confirmed."""
        self.check_unfinished()
        if self.status != RECEIVED:
            raise ApiError("validation", f"the order is {self.status}: it has no message")

    def check_changeable(self, hold: timedelta) -> None:
        """The order must allow a swap or a cancellation; ``hold`` is the time left to wait."""
        self.check_unfinished()
        if not self.is_waiting:
            raise ApiError("validation", f"the order is {self.status}: it can no longer change")
        if hold > timedelta(0):
            raise ApiError("too-early", f"wait {hold.total_seconds():.0f} s more")

    def check_rental(self) -> None:
        """The order must be an active rental."""
        self.check_unfinished()
        if not self.rental or self.status == CANCELLED:
            raise ApiError("validation", "the order is not an active rental")


def find_service(name: str) -> Service:
    """A service by its id; raises ApiError."""
    return next((s for s in SERVICES if s.id == name), None) or _unknown("service", name)


def find_country(iso2: str) -> Country:
    """A country by its two letters in either case; raises ApiError."""
    wanted = iso2.upper()
    return next((c for c in COUNTRIES if c.iso2 == wanted), None) or _unknown("country", iso2)


def _unknown(what: str, name: str) -> NoReturn:
    raise ApiError(f"{what}-not-found", f"there is no {what} {name[:40]}")
