"""DaisySIM's responses, typed; prices keep all digits, because purchases send them back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal

from worker.providers.fields import Fields, MissingFieldError, required, sole
from worker.providers.reported_order import ReportedOrder, order_state
from worker.providers.results import Result, Rows, read_list
from worker.providers.sms import read_code
from worker.schema.states import CANCELLED, WAITING

_ID = ("activation_id", "id", "order_id")
_NUMBER = ("phone_number", "phone", "number")


@dataclass(frozen=True, slots=True, kw_only=True)
class Discount(Result):
    """The account's loyalty discount."""

    tier: str | None = None
    percent: Decimal | None = None
    next_tier: str | None = None
    next_at: Decimal | None = None
    needed: Decimal | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Wallet(Result):
    """The account's balance and owner."""

    balance: Decimal
    currency: str | None = None
    email: str | None = field(default=None, repr=False)
    total_spent: Decimal | None = None
    discount: Discount | None = None

    @classmethod
    def read(cls, payload: object) -> Wallet:
        """Parse it; raises MissingFieldError without the balance."""
        item = Fields(payload).unwrapped("balance")
        discount = item.record("discount")
        return cls(
            balance=required(item.number("balance"), "balance"),
            currency=item.text("currency"),
            email=item.text("email"),
            total_spent=item.number("total_spent"),
            discount=Discount(
                tier=discount.text("tier"),
                percent=discount.number("percent"),
                next_tier=discount.text("next_tier"),
                next_at=discount.number("next_at"),
                needed=discount.number("needed"),
                extra=discount.rest(),
            )
            if discount.raw
            else None,
            extra=item.rest(),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Country(Result):
    """A country; ``id`` is the number that other calls take."""

    id: int
    name: str | None = None

    @classmethod
    def read(cls, payload: object) -> Country:
        """Parse one; raises MissingFieldError without an id."""
        item = Fields(payload)
        return cls(id=required(item.integer("id"), "id"), name=item.text("name"), extra=item.rest())


@dataclass(frozen=True, slots=True, kw_only=True)
class Service(Result):
    """A service; ``code`` is what other calls take."""

    code: str
    name: str | None = None

    @classmethod
    def read(cls, payload: object) -> Service:
        """Parse one; raises MissingFieldError without a code."""
        item = Fields(payload)
        return cls(
            code=required(item.text("code"), "code"), name=item.text("name"), extra=item.rest()
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Tier(Result):
    """One price of a service in a country, and the available numbers at that price."""

    price: Decimal
    tier: int | None = None
    discount_pct: Decimal | None = None
    available: int | None = None

    @classmethod
    def read(cls, payload: object) -> Tier:
        """Parse one; raises MissingFieldError without a price."""
        item = Fields(payload)
        return cls(
            price=required(item.number("price"), "price"),
            tier=item.integer("tier"),
            discount_pct=item.number("discount_pct"),
            available=item.integer("available"),
            extra=item.rest(),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Prices(Result):
    """The prices of a service in a country."""

    tiers: Rows[Tier]
    total_numbers: int | None = None
    discount_tier: str | None = None
    discount_pct: Decimal | None = None

    @classmethod
    def read(cls, payload: object) -> Prices:
        """Parse them; raises MissingFieldError without a list of tiers."""
        item = Fields(payload).unwrapped("tiers")
        return cls(
            tiers=read_list(item.items("tiers", "prices") or item.raw, "tiers", Tier.read),
            total_numbers=item.integer("total_numbers"),
            discount_tier=item.text("discount_tier"),
            discount_pct=item.number("discount_pct"),
            extra=item.rest(),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Purchase(Result):
    """A purchased number."""

    activation_id: str
    phone_number: str | None = field(default=None, repr=False)
    amount_charged: Decimal | None = None
    balance_after: Decimal | None = None

    @classmethod
    def read(cls, payload: object) -> Purchase:
        """Parse it; raises MissingFieldError without an id.

        A number that the answer lacks can be asked for; without its id, the activation is lost.
        """
        item = Fields(payload).unwrapped(*_ID)
        return cls(
            activation_id=required(item.text(*_ID), "activation_id"),
            phone_number=item.phone(*_NUMBER),
            amount_charged=item.number("amount_charged", "price", "cost"),
            balance_after=item.number("balance_after"),
            extra=item.rest(),
        )

    def as_reported_order(self, arguments: Mapping[str, object], /) -> ReportedOrder:
        """Return the new order; ``service_name``, if given, is the service's name in webhooks."""
        names = [arguments.get(each) for each in ("service_name", "service")]
        service, alias, *_ = (*(str(name) for name in names if name), None, None)
        price = self.amount_charged or arguments.get("price")
        return ReportedOrder(
            order_id=self.activation_id,
            status=WAITING,
            phone_number=self.phone_number,
            service=service,
            service_alias=alias,
            country=None if arguments.get("country") is None else str(arguments["country"]),
            price=price if isinstance(price, Decimal) else None,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Check(Result):
    """The status of an activation: ``Waiting``, ``Completed``, or another word as received."""

    status: str
    code: str | None = field(default=None, repr=False)
    phone_number: str | None = field(default=None, repr=False)
    code_is_number: bool = field(default=False, repr=False)

    @classmethod
    def read(cls, payload: object) -> Check:
        """Parse it; raises MissingFieldError without the status."""
        item = Fields(payload).unwrapped("status", "state")
        code, is_number = read_code(item)
        return cls(
            status=required(item.text("status", "state"), "status"),
            code=code,
            phone_number=item.phone(*_NUMBER),
            code_is_number=is_number,
            extra=item.rest(),
        )

    def as_reported_order(self, arguments: Mapping[str, object], /) -> ReportedOrder:
        """Return the status, number and code."""
        return ReportedOrder(
            order_id=str(arguments["activation_id"]),
            status=order_state(self.status),
            phone_number=self.phone_number,
            code=self.code,
            code_is_number=self.code_is_number,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Cancellation(Result):
    """A cancelled activation and its refund."""

    activation_id: str
    refund: Decimal | None = None
    balance_after: Decimal | None = None

    @classmethod
    def read(cls, payload: object, activation_id: str) -> Cancellation:
        """Parse it; if the response has no id, ``activation_id`` is used.

        Raises:
            MissingFieldError: the response is no object.
        """
        if not isinstance(sole(payload), Mapping):
            raise MissingFieldError("no data")
        item = Fields(payload).unwrapped("activation_id", "refund")
        return cls(
            activation_id=item.text("activation_id") or activation_id,
            refund=item.number("refund"),
            balance_after=item.number("balance_after"),
            extra=item.rest(),
        )

    def as_reported_order(self, _arguments: Mapping[str, object], /) -> ReportedOrder:
        """Return the order as cancelled."""
        return ReportedOrder(order_id=self.activation_id, status=CANCELLED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Activation(Result):
    """One activation in the account's history."""

    activation_id: str
    phone_number: str | None = field(default=None, repr=False)
    service: str | None = None
    country: str | None = None
    status: str | None = None
    price: Decimal | None = None
    code: str | None = field(default=None, repr=False)
    created_at: datetime | None = None
    code_is_number: bool = field(default=False, repr=False)

    @classmethod
    def read(cls, payload: object) -> Activation:
        """Parse one; raises MissingFieldError without an id."""
        item = Fields(payload)
        code, is_number = read_code(item)
        return cls(
            activation_id=required(item.text(*_ID), "activation_id"),
            phone_number=item.phone(*_NUMBER),
            service=item.label("service", "service_name"),
            country=item.label("country", "country_name"),
            status=item.text("status", "state"),
            price=item.number("price", "amount_charged", "amount", "cost"),
            code=code,
            created_at=item.time("created_at", "purchased_at", "created", "date"),
            code_is_number=is_number,
            extra=item.rest(),
        )

    def as_reported_order(self, _arguments: Mapping[str, object], /) -> ReportedOrder:
        """Return all fields."""
        return ReportedOrder(
            order_id=self.activation_id,
            status=order_state(self.status),
            phone_number=self.phone_number,
            service=self.service,
            country=self.country,
            price=self.price,
            code=self.code,
            code_is_number=self.code_is_number,
            created_at=self.created_at,
        )
