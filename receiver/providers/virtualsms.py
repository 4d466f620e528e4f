"""VirtualSMS: signed webhooks in three dialects.

The API reference documents HMAC-SHA256 in ``X-VirtualSMS-Signature`` and five events. Two more
dialects are published: an envelope with ``id``, ``type`` and ``data`` (api-docs, ``webhooks.md``),
and a flat body with its signature in ``X-Signature`` (docs, ``guides/webhooks``). The fields tell
the dialect, not the headers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Annotated, Any

from pydantic import Field
from pydantic_settings import BaseSettings, NoDecode

from receiver.errors import InvalidSignature, MalformedPayload, ProviderNotConfigured
from receiver.events import (
    BalanceDeposited,
    BalanceLow,
    Event,
    OrderCancelled,
    OrderConfirmed,
    OrderEvent,
    OrderExpired,
    OrderSwapped,
    SmsReceived,
    UnknownEvent,
)
from receiver.providers import signature_hints, signatures
from receiver.providers.base import (
    MAX_NAME_LENGTH,
    Provider,
    WebhookRequest,
    code_of,
    event_name,
    identifier_of,
    is_yes,
    label_of,
    order_in,
    text_of,
    time_of,
    unknown,
    when,
)
from receiver.providers.payload import Payload, fields_of, is_absent
from receiver.providers.times import ReadTime
from receiver.setting_types import Networks, Secrets

_SIGNATURE_HEADERS = (b"x-virtualsms-signature", b"x-signature")
_TIMESTAMP_HEADER = b"x-virtualsms-timestamp"
# The public documentation accepts timestamps within five minutes.
_FRESH_SECONDS = 300
_PROVIDER = "virtualsms"
# How the names of events without an order start.
_OF_THE_ACCOUNT = ("balance", "deposit")


class VirtualSMSSettings(BaseSettings):
    """Secrets, timestamp tolerance and allowed networks of VirtualSMS's webhooks."""

    virtualsms_webhook_secrets: Annotated[Secrets, NoDecode] = ()
    virtualsms_timestamp_tolerance: int = Field(default=0, ge=0)
    virtualsms_allowed_addresses: Annotated[Networks, NoDecode] = ()


class VirtualSMS(Provider):
    """VirtualSMS's webhooks."""

    name = _PROVIDER
    settings_type = VirtualSMSSettings

    def __init__(self, settings: VirtualSMSSettings) -> None:
        self._secrets = [
            secret.get_secret_value().encode("utf-8", "surrogateescape")
            for secret in settings.virtualsms_webhook_secrets
        ]
        self._tolerance = settings.virtualsms_timestamp_tolerance
        self.allowed_addresses = settings.virtualsms_allowed_addresses

    @property
    def configured(self) -> bool:  # noqa: D102
        return bool(self._secrets)

    def authenticate(self, request: WebhookRequest) -> tuple[str, ...]:  # noqa: D102
        if not self._secrets:
            raise ProviderNotConfigured("VIRTUALSMS_WEBHOOK_SECRETS is empty")
        signatures.verify(request.body, _signatures(request), self._secrets)
        return self._check_timestamp(request)

    def explain(self, request: WebhookRequest) -> str | None:  # noqa: D102
        return signature_hints.explain(
            request.body, _signatures(request), self._secrets, "VIRTUALSMS_WEBHOOK_SECRETS"
        )

    def _check_timestamp(self, request: WebhookRequest) -> tuple[str, ...]:
        # The signature does not cover the timestamp: a stale one proves nothing, and rejecting
        # it could lose a real event. The stored event key is what prevents replays.
        age = _age(request.values(_TIMESTAMP_HEADER), request.at)
        if age is None:
            return ()
        if self._tolerance and abs(age) > self._tolerance:
            side = "behind" if age > 0 else "ahead of"
            raise InvalidSignature(
                f"X-VirtualSMS-Timestamp is more than VIRTUALSMS_TIMESTAMP_TOLERANCE {side} our "
                "clock: correct the clock, or set the tolerance to 0"
            )
        if abs(age) > _FRESH_SECONDS:
            return (f"X-VirtualSMS-Timestamp is {age:.0f} s behind our clock",)
        return ()

    @classmethod
    def event_key(cls, payload: Payload) -> str | None:  # noqa: D102
        value = payload.get("id")
        if isinstance(value, int) and not isinstance(value, bool):
            return str(value)
        if not isinstance(value, str) or not value.isprintable() or is_absent(value):
            return None
        return value if len(value) <= MAX_NAME_LENGTH else None

    @classmethod
    def is_test(cls, payload: Payload) -> bool:  # noqa: D102
        data = payload.get("data")
        inner = data.get("test") if isinstance(data, Mapping) else None
        return is_yes(payload.get("test")) or is_yes(inner)

    @classmethod
    def order_of(cls, payload: Payload) -> str | None:  # noqa: D102
        return order_in(payload, *_ORDER_IDS)

    @classmethod
    def may_recur(cls, payload: Payload) -> bool:  # noqa: D102
        # The name tells almost every event apart, so that only the others are read here.
        name = payload.get("type") or payload.get("event")
        if not isinstance(name, str) or not name.lower().startswith(_OF_THE_ACCOUNT):
            return False
        try:
            event = cls.read(payload)
        except MalformedPayload:
            return False
        is_balance = isinstance(event, BalanceDeposited | BalanceLow)
        return is_balance and event.at is None and cls.event_key(payload) is None

    @classmethod
    def read(cls, payload: Payload) -> Event:  # noqa: D102
        fields = fields_of(payload)
        name = text_of(fields, "type", "event", "event_type")
        if is_yes(fields.get("test")):
            return UnknownEvent(provider=_PROVIDER, name="test")
        read_event = _READERS.get(event_name(name))
        if read_event is None and name is None and _is_message(fields):
            read_event = _sms
        if read_event is None:
            return unknown(_PROVIDER, fields, _at(fields), name, codes=(*_CODES, *_TEXTS))
        return read_event(fields)


def _signatures(request: WebhookRequest) -> list[bytes]:
    """Return the signatures that count: more than one if a header is repeated.

    The flat dialect's header counts only where the documented one is absent.
    """
    found = [header for header in request.headers if header[0] in _SIGNATURE_HEADERS]
    if len(found) == 2 and found[0][0] != found[1][0]:
        found = [header for header in found if header[0] == _SIGNATURE_HEADERS[0]]
    return [value for _, value in found]


def _age(values: list[bytes], at: datetime) -> float | None:
    try:
        age = at.timestamp() - float(values[0]) if len(values) == 1 else math.nan
    except ValueError:
        return None
    return age if math.isfinite(age) else None


def _at(fields: Payload, *first: str) -> ReadTime | None:
    """The event's own time if it has one, else any other that says when it happened."""
    return time_of(fields, *first, *_TIMES)


def _order_fields(fields: Payload, at: ReadTime | None) -> dict[str, Any]:
    return {
        "provider": _PROVIDER,
        **when(at),
        "order_id": identifier_of(fields, *_ORDER_IDS),
        "phone_number": label_of(fields, *_NUMBERS),
        "service": label_of(fields, "service", "service_name", "service_code", "product"),
        "country": label_of(fields, "country", "country_code", "iso2"),
    }


def _is_message(fields: Payload) -> bool:
    return text_of(fields, *_CODES, *_TEXTS) is not None and any(map(fields.get, _ORDER_IDS))


def _sms(fields: Payload) -> Event:
    text = text_of(fields, *_TEXTS)
    order = _order_fields(fields, _at(fields, "received_at", "sms_received_at"))
    known = [order["phone_number"] or "", order["order_id"]]
    read = code_of(fields, text, *_CODES, other_numbers=known)
    if read.code is None and text is None:
        raise MalformedPayload("code or sms_code: missing, and there is no text")
    return SmsReceived(
        code=read.code,
        text=text,
        extracted=read.extracted,
        may_lack_zeros=read.may_lack_zeros,
        **order,
    )


def _order(event: type[OrderEvent], *times: str) -> Callable[[Payload], Event]:
    return lambda fields: event(**_order_fields(fields, _at(fields, *times)))


def _cancelled(fields: Payload) -> Event:
    order = _order_fields(fields, _at(fields, "cancelled_at", "canceled_at", "refunded_at"))
    return OrderCancelled(reason=label_of(fields, "reason", "cancel_reason"), **order)


def _swapped(fields: Payload) -> Event:
    order = _order_fields(fields, _at(fields, "swapped_at", "new_number_at"))
    return OrderSwapped(
        **{**order, "phone_number": label_of(fields, "new_phone_number", "new_number", *_NUMBERS)}
    )


def _deposited(fields: Payload) -> Event:
    return BalanceDeposited(
        provider=_PROVIDER,
        **when(_at(fields, "deposited_at")),
        amount=label_of(fields, "amount", "deposit_amount"),
        currency=label_of(fields, "currency"),
    )


def _low(fields: Payload) -> Event:
    return BalanceLow(
        provider=_PROVIDER,
        **when(_at(fields)),
        balance=label_of(fields, "balance", "current_balance"),
        currency=label_of(fields, "currency"),
    )


_ORDER_IDS = ("order_id", "orderid", "order", "activation_id", "inner_id")
_NUMBERS = ("phone_number", "new_phone_number", "phone", "number", "msisdn")
_CODES = ("code", "sms_code", "otp", "otp_code", "verification_code", "pin")
_TEXTS = ("full_text", "text", "sms_text", "sms", "message", "content", "body", "messages")
_TIMES = (
    *("received_at", "occurred_at", "event_at", "created_at", "updated_at"),
    *("timestamp", "time", "date"),
)
_READERS: Mapping[str, Callable[[Payload], Event]] = {
    event_name(name): reader
    for name, reader in (
        # API reference, "Webhooks"
        ("order.sms_received", _sms),
        ("order.confirmed", _order(OrderConfirmed, "confirmed_at", "completed_at")),
        ("order.cancelled", _cancelled),
        ("order.canceled", _cancelled),
        ("order.swapped", _swapped),
        ("balance.deposited", _deposited),
        # api-docs, webhooks.md
        ("sms.received", _sms),
        ("order.expired", _order(OrderExpired, "expired_at", "expires_at")),
        ("balance.low", _low),
        # docs, guides/webhooks
        ("sms_received", _sms),
        ("order_expired", _order(OrderExpired, "expired_at", "expires_at")),
        ("deposit_confirmed", _deposited),
    )
}
