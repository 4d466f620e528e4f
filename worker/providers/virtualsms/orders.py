"""VirtualSMS's responses about an order and its messages, typed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal

from worker.providers.fields import Fields, required
from worker.providers.reported_order import ReportedOrder
from worker.providers.results import Result
from worker.schema.states import ORDER_STATES

# The documented states, and the words of other API versions for them.
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
_EARLIEST = datetime.min.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sms(Result):
    """The newest message of an order; code and text are None if there is none yet."""

    order_id: str
    status: str | None = None
    phone_number: str | None = field(default=None, repr=False)
    code: str | None = field(default=None, repr=False)
    text: str | None = field(default=None, repr=False)
    received_at: datetime | None = None

    @classmethod
    def read(cls, payload: object, order_id: str) -> Sms:
        """Parse it; if the response has no order id, ``order_id`` is used."""
        item = _unwrap({"messages": payload} if isinstance(payload, list) else payload)
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

    def as_reported_order(self, _arguments: Mapping[str, object], /) -> ReportedOrder:
        """Return the order's state, number and message."""
        return ReportedOrder(
            order_id=self.order_id,
            status=_known_state(self.status),
            phone_number=self.phone_number,
            code=self.code,
            text=self.text,
            received_at=self.received_at,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Order(Result):
    """An order; ``status`` is one of the six states, or an unknown word as received."""

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
        """Parse one; if the response has no id, ``order_id`` is used.

        Raises:
            MissingFieldError: there is no id at all.
        """
        item = _unwrap(payload)
        message = _message(item)
        return cls(
            order_id=required(item.text("order_id", "id") or order_id, "order_id"),
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
        """Parse a new order; raises MissingFieldError without an id and a number."""
        order = cls.read(payload)
        required(order.phone_number, "phone_number")
        return order

    def as_reported_order(self, arguments: Mapping[str, object], /) -> ReportedOrder:
        """Return all fields; missing ones come from the call's arguments."""
        service, country = (_text(arguments.get(name)) for name in ("service", "country"))
        return ReportedOrder(
            order_id=self.order_id,
            status=_known_state(self.status),
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


def _unwrap(payload: object) -> Fields:
    """Return the order object, which some API versions wrap in another one."""
    item = Fields(payload)
    inner = item.record("data", "order")
    return inner if inner.raw and "order_id" not in item.raw else item


def _message(item: Fields) -> Fields:
    """Return the fields of the newest message, else those of the order itself."""
    newest = max(
        map(Fields, item.items("messages", "sms") or ()),
        key=lambda message: message.time("received_at") or _EARLIEST,
        default=item.record("sms", "message"),
    )
    present = {name: value for name, value in newest.raw.items() if value is not None}
    return Fields({**item.raw, **present})


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _known_state(status: str | None) -> str | None:
    return status if status in ORDER_STATES else None


def _state(item: Fields) -> str | None:
    word = item.text("status", "state")
    return None if word is None else _STATES.get(word.lower(), word)
