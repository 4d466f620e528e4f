"""What DaisySIM answers, typed; prices keep every digit, because they are sent back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal

from worker.providers.fields import Fields, needed
from worker.providers.reported_order import ReportedOrder
from worker.providers.results import Result, read_list
from worker.schema.states import CANCELLED, CONFIRMED, EXPIRED, WAITING

# The first three are the document's, as `check` or as `history` spells them. An activation that has
# its code is over, and charged.
_STATES = {
    "waiting": WAITING,
    "completed": CONFIRMED,
    "cancelled": CANCELLED,
    "canceled": CANCELLED,
    "refunded": CANCELLED,
    "expired": EXPIRED,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Discount(Result):
    """How far the account's loyalty has brought it."""

    tier: str | None = None
    percent: Decimal | None = None
    next_tier: str | None = None
    next_at: Decimal | None = None
    needed: Decimal | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Wallet(Result):
    """What the account has to spend, and whose it is."""

    balance: Decimal
    currency: str | None = None
    email: str | None = field(default=None, repr=False)
    total_spent: Decimal | None = None
    discount: Discount | None = None

    @classmethod
    def read(cls, payload: object) -> Wallet:
        """Read it; raises MissingFieldError without the balance."""
        item = Fields(payload)
        discount = item.record("discount")
        return cls(
            balance=needed(item.number("balance"), "balance"),
            currency=item.text("currency"),
            email=item.text("email"),
            total_spent=item.number("total_spent"),
            discount=Discount(
                tier=discount.text("tier"),
                percent=discount.number("percent"),
                next_tier=discount.text("next_tier"),
                next_at=discount.number("next_at"),
                needed=discount.number("needed"),
                raw=discount.raw,
            )
            if discount.raw
            else None,
            raw=item.raw,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Country(Result):
    """A country, by the number that other calls want."""

    id: int
    name: str | None = None

    @classmethod
    def read(cls, payload: object) -> Country:
        """Read one; raises MissingFieldError without its id."""
        item = Fields(payload)
        return cls(id=needed(item.integer("id"), "id"), name=item.text("name"), raw=item.raw)


@dataclass(frozen=True, slots=True, kw_only=True)
class Service(Result):
    """A service, by the code that other calls want."""

    code: str
    name: str | None = None

    @classmethod
    def read(cls, payload: object) -> Service:
        """Read one; raises MissingFieldError without its code."""
        item = Fields(payload)
        return cls(code=needed(item.text("code"), "code"), name=item.text("name"), raw=item.raw)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tier(Result):
    """One price of a service in a country, and how many numbers there are for it."""

    price: Decimal
    tier: int | None = None
    discount_pct: Decimal | None = None
    available: int | None = None

    @classmethod
    def read(cls, payload: object) -> Tier:
        """Read one; raises MissingFieldError without the price."""
        item = Fields(payload)
        return cls(
            price=needed(item.number("price"), "price"),
            tier=item.integer("tier"),
            discount_pct=item.number("discount_pct"),
            available=item.integer("available"),
            raw=item.raw,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Prices(Result):
    """What a service costs in a country."""

    tiers: tuple[Tier, ...]
    total_numbers: int | None = None
    discount_tier: str | None = None
    discount_pct: Decimal | None = None

    @classmethod
    def read(cls, payload: object) -> Prices:
        """Read them; raises MissingFieldError without the list of tiers."""
        item = Fields(payload)
        return cls(
            tiers=read_list(payload, "tiers", Tier.read),
            total_numbers=item.integer("total_numbers"),
            discount_tier=item.text("discount_tier"),
            discount_pct=item.number("discount_pct"),
            raw=item.raw,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Purchase(Result):
    """A number that was bought."""

    activation_id: str
    phone_number: str = field(repr=False)
    amount_charged: Decimal | None = None
    balance_after: Decimal | None = None

    @classmethod
    def read(cls, payload: object) -> Purchase:
        """Read it; raises MissingFieldError without its id or the number."""
        item = Fields(payload)
        return cls(
            activation_id=needed(item.text("activation_id"), "activation_id"),
            phone_number=needed(item.phone("phone_number"), "phone_number"),
            amount_charged=item.number("amount_charged"),
            balance_after=item.number("balance_after"),
            raw=item.raw,
        )

    def about_order(self, asked: Mapping[str, object], /) -> ReportedOrder:
        """The order that was made; its service has the name that its webhook will use, if told."""
        service = asked.get("service_name") or asked.get("service")
        price = self.amount_charged or asked.get("price")
        return ReportedOrder(
            order_id=self.activation_id,
            status=WAITING,
            phone_number=self.phone_number,
            service=None if service is None else str(service),
            country=None if asked.get("country") is None else str(asked["country"]),
            price=price if isinstance(price, Decimal) else None,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Check(Result):
    """How an activation stands: ``PendingWrite``, ``Completed``, or another word as it came."""

    status: str
    code: str | None = field(default=None, repr=False)
    phone_number: str | None = field(default=None, repr=False)

    @classmethod
    def read(cls, payload: object) -> Check:
        """Read it; raises MissingFieldError without the status."""
        item = Fields(payload)
        return cls(
            status=needed(item.text("status"), "status"),
            code=item.text("code"),
            phone_number=item.phone("phone_number"),
            raw=item.raw,
        )

    def about_order(self, asked: Mapping[str, object], /) -> ReportedOrder:
        """How the activation that was asked about stands."""
        return ReportedOrder(
            order_id=str(asked["activation_id"]),
            status=_STATES.get(self.status.lower()),
            phone_number=self.phone_number,
            code=self.code,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Cancellation(Result):
    """An activation given up, and what came back for it."""

    activation_id: str
    refund: Decimal | None = None
    balance_after: Decimal | None = None

    @classmethod
    def read(cls, payload: object, activation_id: str) -> Cancellation:
        """Read it; the id is the one asked for where the answer has none."""
        item = Fields(payload)
        return cls(
            activation_id=item.text("activation_id") or activation_id,
            refund=item.number("refund"),
            balance_after=item.number("balance_after"),
            raw=item.raw,
        )

    def about_order(self, _asked: Mapping[str, object], /) -> ReportedOrder:
        """It is cancelled."""
        return ReportedOrder(order_id=self.activation_id, status=CANCELLED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Activation(Result):
    """One line of the account's history."""

    activation_id: str
    phone_number: str | None = field(default=None, repr=False)
    service: str | None = None
    country: str | None = None
    status: str | None = None
    price: Decimal | None = None
    code: str | None = field(default=None, repr=False)
    created_at: datetime | None = None

    @classmethod
    def read(cls, payload: object) -> Activation:
        """Read one; raises MissingFieldError without its id."""
        item = Fields(payload)
        return cls(
            activation_id=needed(item.text("activation_id", "id"), "activation_id"),
            phone_number=item.phone("phone_number", "phone"),
            service=item.text("service", "service_name"),
            country=item.text("country", "country_name"),
            status=item.text("status"),
            price=item.number("price", "amount_charged", "amount"),
            code=item.text("code"),
            created_at=item.time("created_at", "purchased_at"),
            raw=item.raw,
        )

    def about_order(self, _asked: Mapping[str, object], /) -> ReportedOrder:
        """All of it."""
        return ReportedOrder(
            order_id=self.activation_id,
            status=_STATES.get((self.status or "").lower()),
            phone_number=self.phone_number,
            service=self.service,
            country=self.country,
            price=self.price,
            code=self.code,
            created_at=self.created_at,
        )
