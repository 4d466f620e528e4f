"""VirtualSMS's responses about its catalogue and the account, typed."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal

from worker.providers.fields import Fields, required
from worker.providers.results import Result


@dataclass(frozen=True, slots=True, kw_only=True)
class Service(Result):
    """A service that numbers are sold for."""

    id: str
    name: str | None = None
    category: str | None = None

    @classmethod
    def read(cls, payload: object) -> Service:
        """Parse one; raises MissingFieldError without an id."""
        item = Fields(payload)
        return cls(
            id=required(item.text("id", "slug", "code"), "id"),
            name=item.text("name"),
            category=item.text("category"),
            extra=item.rest(),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Country(Result):
    """A country that numbers are sold in; ``in_stock`` is a count or a flag, as received."""

    iso2: str
    name: str | None = None
    in_stock: int | bool | None = None

    @classmethod
    def read(cls, payload: object) -> Country:
        """Parse one; raises MissingFieldError without an iso2."""
        item = Fields(payload)
        stock = item.integer("in_stock")
        return cls(
            iso2=required(item.text("iso2", "iso", "code", "id"), "iso2"),
            name=item.text("name"),
            in_stock=item.flag("in_stock") if stock is None else stock,
            extra=item.rest(),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer(Result):
    """The price of a service in a country; the one that the call named may be missing."""

    price: Decimal
    service: str | None = None
    country: str | None = None
    stock: int | None = None

    @classmethod
    def read(cls, payload: object) -> Offer:
        """Parse one; raises MissingFieldError without a price."""
        item = Fields(payload).unwrapped("price")
        return cls(
            price=required(item.number("price"), "price"),
            service=item.text("service"),
            country=item.text("country"),
            stock=item.integer("stock"),
            extra=item.rest(),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Balance(Result):
    """The account's balance."""

    balance: Decimal
    currency: str | None = None

    @classmethod
    def read(cls, payload: object) -> Balance:
        """Parse it; raises MissingFieldError without the amount."""
        item = Fields(payload).unwrapped("balance", "amount")
        amount = required(item.number("balance", "amount"), "balance")
        return cls(balance=amount, currency=item.text("currency"), extra=item.rest())


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile(Result):
    """The account that the key belongs to."""

    email: str | None = field(default=None, repr=False)
    balance: Decimal | None = None
    plan: str | None = None

    @classmethod
    def read(cls, payload: object) -> Profile:
        """Parse it."""
        item = Fields(payload).unwrapped("email", "balance", "plan")
        return cls(
            email=item.text("email"),
            balance=item.number("balance"),
            plan=item.text("plan"),
            extra=item.rest(),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Stats(Result):
    """The account's lifetime totals."""

    lifetime_orders: int | None = None
    lifetime_spend: Decimal | None = None

    @classmethod
    def read(cls, payload: object) -> Stats:
        """Parse it."""
        item = Fields(payload).unwrapped("lifetime_orders", "lifetime_spend")
        return cls(
            lifetime_orders=item.integer("lifetime_orders"),
            lifetime_spend=item.number("lifetime_spend"),
            extra=item.rest(),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Transaction(Result):
    """One transaction of the account."""

    id: str | None = None
    type: str | None = None
    amount: Decimal | None = None
    currency: str | None = None
    order_id: str | None = None
    created_at: datetime | None = None

    @classmethod
    def read(cls, payload: object) -> Transaction:
        """Parse one."""
        item = Fields(payload)
        return cls(
            id=item.text("id", "transaction_id"),
            type=item.text("type", "kind"),
            amount=item.number("amount"),
            currency=item.text("currency"),
            order_id=item.text("order_id"),
            created_at=item.time("created_at", "timestamp"),
            extra=item.rest(),
        )
