"""VirtualSMS's responses about an order and its messages, typed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal

from worker.providers.fields import Fields, required
from worker.providers.reported_order import ReportedOrder, order_state
from worker.providers.results import Result
from worker.providers.sms import read_message
from worker.schema.states import ORDER_STATES

_ID = ("order_id", "id")
_NUMBER = ("phone_number", "phone", "number")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sms(Result):
    """The newest message of an order; code and text are None if there is none yet."""

    order_id: str
    status: str | None = None
    phone_number: str | None = field(default=None, repr=False)
    code: str | None = field(default=None, repr=False)
    text: str | None = field(default=None, repr=False)
    received_at: datetime | None = None
    code_is_number: bool = field(default=False, repr=False)

    @classmethod
    def read(cls, payload: object, order_id: str) -> Sms:
        """Parse it; if the response has no order id, ``order_id`` is used."""
        found = {"messages": payload} if isinstance(payload, list) else payload
        item = Fields(found).unwrapped("order_id", "code", "sms_code", "messages", "sms", "status")
        message = read_message(item)
        return cls(
            order_id=item.text("order_id") or order_id,
            status=_state(item),
            phone_number=item.phone(*_NUMBER),
            code=message.code,
            text=message.text,
            received_at=message.received_at,
            code_is_number=message.code_is_number,
            extra=item.rest(),
        )

    def as_reported_order(self, _arguments: Mapping[str, object], /) -> ReportedOrder:
        """Return the order's state, number and message."""
        return ReportedOrder(
            order_id=self.order_id,
            status=_known_state(self.status),
            phone_number=self.phone_number,
            code=self.code,
            code_is_number=self.code_is_number,
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
    code_is_number: bool = field(default=False, repr=False)

    @classmethod
    def read(cls, payload: object, order_id: str | None = None) -> Order:
        """Parse one; if the response has no id, ``order_id`` is used.

        Raises:
            MissingFieldError: there is no id at all.
        """
        item = Fields(payload).unwrapped(*_ID)
        message = read_message(item)
        return cls(
            order_id=required(item.text(*_ID) or order_id, "order_id"),
            phone_number=item.phone(*_NUMBER),
            service=item.label("service", "service_name"),
            country=item.label("country", "country_code"),
            status=_state(item),
            price=item.number("price", "cost"),
            code=message.code,
            text=message.text,
            created_at=item.time("created_at", "created"),
            expires_at=item.time("expires_at", "expires"),
            received_at=message.received_at,
            confirmed_at=item.time("confirmed_at", "completed_at"),
            code_is_number=message.code_is_number,
            extra=item.rest(),
        )

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
            code_is_number=self.code_is_number,
            text=self.text,
            created_at=self.created_at,
            received_at=self.received_at,
            confirmed_at=self.confirmed_at,
            expires_at=self.expires_at,
        )


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _state(item: Fields) -> str | None:
    word = item.text("status", "state")
    return order_state(word) or word


def _known_state(status: str | None) -> str | None:
    return status if status in ORDER_STATES else None
