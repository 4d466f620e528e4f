"""VirtualSMS: signed webhooks in three dialects.

The API reference documents HMAC-SHA256 in ``X-VirtualSMS-Signature`` and five events. Two more
dialects are published: an envelope with ``id``, ``type`` and ``data`` (api-docs, ``webhooks.md``),
and a flat body with its signature in ``X-Signature`` (docs, ``guides/webhooks``). The fields tell
the dialect, not the headers.
"""

from __future__ import annotations

import math
import re
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
)
from receiver.providers import signature_hints, signatures
from receiver.providers.base import (
    MAX_NAME_LENGTH,
    Payload,
    Provider,
    WebhookRequest,
    identifier_of,
    label_of,
    text_of,
    time_of,
    unknown,
)
from receiver.setting_types import Networks, Secrets

_SIGNATURE_HEADERS = (b"x-virtualsms-signature", b"x-signature")
_TIMESTAMP_HEADER = b"x-virtualsms-timestamp"
# The public documentation accepts timestamps within five minutes.
_FRESH_SECONDS = 300
_DIGITS = re.compile(r"(?<!\d)\d{4,10}(?!\d)")
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
        return (
            value
            if isinstance(value, str) and 0 < len(value) <= MAX_NAME_LENGTH and value.isprintable()
            else None
        )

    @classmethod
    def is_test(cls, payload: Payload) -> bool:  # noqa: D102
        data = payload.get("data")
        return isinstance(data, Mapping) and data.get("test") is True

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
        name = text_of(payload, "type", "event")
        data = payload.get("data")
        fields: Payload = {**payload, **data} if isinstance(data, Mapping) else payload
        at = time_of(fields, "received_at", "created_at", "timestamp")
        read_event = _READERS.get(name or "")
        if read_event is None:
            return unknown(_PROVIDER, fields, at, name, codes=("code", "sms_code", "full_text"))
        return read_event(fields, at)


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


def _order_fields(fields: Payload, at: datetime | None) -> dict[str, Any]:
    return {
        "provider": _PROVIDER,
        "at": at,
        "order_id": identifier_of(fields, "order_id"),
        "phone_number": text_of(fields, "phone_number", "new_phone_number"),
        "service": label_of(fields, "service"),
        "country": label_of(fields, "country"),
    }


def _sms(fields: Payload, at: datetime | None) -> Event:
    text = text_of(fields, "full_text", "text")
    if text_of(fields, "code", "sms_code") is not None:
        code = identifier_of(fields, "code", "sms_code")
    else:
        found = _DIGITS.search(text or "")
        if found is None:
            raise MalformedPayload("code or sms_code: missing, and no code found in full_text")
        code = found.group()
    return SmsReceived(code=code, text=text, **_order_fields(fields, at))


def _order(event: type[OrderEvent]) -> Callable[[Payload, datetime | None], Event]:
    return lambda fields, at: event(**_order_fields(fields, at))


def _cancelled(fields: Payload, at: datetime | None) -> Event:
    return OrderCancelled(reason=label_of(fields, "reason"), **_order_fields(fields, at))


def _swapped(fields: Payload, at: datetime | None) -> Event:
    order = _order_fields(fields, at)
    return OrderSwapped(
        **{**order, "phone_number": text_of(fields, "new_phone_number", "phone_number")}
    )


def _deposited(fields: Payload, at: datetime | None) -> Event:
    return BalanceDeposited(
        provider=_PROVIDER,
        at=at,
        amount=label_of(fields, "amount"),
        currency=label_of(fields, "currency"),
    )


def _low(fields: Payload, at: datetime | None) -> Event:
    return BalanceLow(
        provider=_PROVIDER,
        at=at,
        balance=label_of(fields, "balance"),
        currency=label_of(fields, "currency"),
    )


_READERS: Mapping[str, Callable[[Payload, datetime | None], Event]] = {
    # API reference, "Webhooks"
    "order.sms_received": _sms,
    "order.confirmed": _order(OrderConfirmed),
    "order.cancelled": _cancelled,
    "order.swapped": _swapped,
    "balance.deposited": _deposited,
    # api-docs, webhooks.md
    "sms.received": _sms,
    "order.expired": _order(OrderExpired),
    "balance.low": _low,
    # docs, guides/webhooks
    "sms_received": _sms,
    "order_expired": _order(OrderExpired),
    "deposit_confirmed": _deposited,
}
