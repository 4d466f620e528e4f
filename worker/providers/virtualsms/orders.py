"""What VirtualSMS answers about an order and its messages, typed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal

from worker.providers.fields import Fields, needed
from worker.providers.reported_order import ReportedOrder
from worker.providers.results import Result
from worker.schema.states import ORDER_STATES

# The documented states, and the words that other variants of the API use for them.
_STATES = {
    "created": "created",
    "waiting": "waiting",
    "received": "received",
    "confirmed": "confirmed",
    "cancelled": "cancelled",
    "expired": "expired",
    "sms_received": "received",
    "completed": "confirmed",
    "canceled": "cancelled",
    "swapped": "waiting",
}
_CODE = ("code", "sms_code")
_TEXT = ("full_text", "text", "sms_text", "content")
_LONG_AGO = datetime.min.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sms(Result):
    """What has reached an order's number; without code and text, nothing has yet."""

    order_id: str
    status: str | None = None
    phone_number: str | None = field(default=None, repr=False)
    code: str | None = field(default=None, repr=False)
    text: str | None = field(default=None, repr=False)
    received_at: datetime | None = None

    @classmethod
    def read(cls, payload: object, order_id: str) -> Sms:
        """Read it; the order's id is the one asked for where the answer has none."""
        item = _unwrapped({"messages": payload} if isinstance(payload, list) else payload)
        message = _message(item)
        return cls(
            order_id=item.text("order_id") or order_id,
            status=_state(item),
            phone_number=item.phone("phone_number"),
            code=message.text(*_CODE),
            text=message.text(*_TEXT),
            received_at=message.time("received_at"),
            raw=item.raw,
        )

    def about_order(self, _asked: Mapping[str, object], /) -> ReportedOrder:
        """The order's state and number, and the message."""
        return ReportedOrder(
            order_id=self.order_id,
            status=_known(self.status),
            phone_number=self.phone_number,
            code=self.code,
            text=self.text,
            received_at=self.received_at,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Order(Result):
    """An order, as far as the answer tells: the state is one of the six, or a word of its own."""

    order_id: str
    phone_number: str | None = field(default=None, repr=False)
    service: str | None = None
    country: str | None = None
    status: str | None = None
    price: Decimal | None = None
    code: str | None = field(default=None, repr=False)
    text: str | None = field(default=None, repr=False)
    created_at: datetime | None = None
    expires_at: datetime | None = None
    received_at: datetime | None = None
    confirmed_at: datetime | None = None

    @classmethod
    def read(cls, payload: object, order_id: str | None = None) -> Order:
        """Read one; the id is the one asked for where the answer has none.

        Raises:
            MissingFieldError: there is no id at all.
        """
        item = _unwrapped(payload)
        message = _message(item)
        return cls(
            order_id=needed(item.text("order_id", "id") or order_id, "order_id"),
            phone_number=item.phone("phone_number", "phone"),
            service=item.text("service"),
            country=item.text("country"),
            status=_state(item),
            price=item.number("price"),
            code=message.text(*_CODE),
            text=message.text(*_TEXT),
            created_at=item.time("created_at"),
            expires_at=item.time("expires_at"),
            received_at=message.time("received_at"),
            confirmed_at=item.time("confirmed_at"),
            raw=item.raw,
        )

    @classmethod
    def read_new(cls, payload: object) -> Order:
        """Read an order just made, which is of use with its id and number only."""
        order = cls.read(payload)
        needed(order.phone_number, "phone_number")
        return order

    def about_order(self, asked: Mapping[str, object], /) -> ReportedOrder:
        """All of it; what it was asked for stands in for what the answer leaves out."""
        service, country = (_text(asked.get(name)) for name in ("service", "country"))
        return ReportedOrder(
            order_id=self.order_id,
            status=_known(self.status),
            phone_number=self.phone_number,
            service=self.service or service,
            country=self.country or country,
            price=self.price,
            code=self.code,
            text=self.text,
            created_at=self.created_at,
            received_at=self.received_at,
            confirmed_at=self.confirmed_at,
            expires_at=self.expires_at,
        )


def _unwrapped(payload: object) -> Fields:
    """The order's own object, which some variants wrap in another."""
    item = Fields(payload)
    inner = item.record("data", "order")
    return inner if inner.raw and "order_id" not in item.raw else item


def _message(item: Fields) -> Fields:
    """Where code and text stand: in the newest of the order's messages, else beside its fields."""
    newest = max(
        map(Fields, item.items("messages", "sms") or ()),
        key=lambda message: message.time("received_at") or _LONG_AGO,
        default=item.record("sms", "message"),
    )
    told = {name: value for name, value in newest.raw.items() if value is not None}
    return Fields({**item.raw, **told})


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _known(status: str | None) -> str | None:
    return status if status in ORDER_STATES else None


def _state(item: Fields) -> str | None:
    word = item.text("status", "state")
    return None if word is None else _STATES.get(word.lower(), word)
