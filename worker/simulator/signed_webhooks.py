"""The providers' webhooks with fictional content, signed as the providers sign them.

The events of each dialect and their names follow the provider's documents; the modules in
:mod:`receiver.providers` name those documents.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final
from urllib.parse import quote

from ulid import ULID

from receiver import clock
from receiver.errors import ConfigurationError
from receiver.events import (
    BalanceDeposited,
    BalanceLow,
    OrderCancelled,
    OrderConfirmed,
    OrderExpired,
    OrderSwapped,
    SmsReceived,
)
from receiver.providers import signatures
from receiver.providers.daisysim import DaisySIMSettings
from receiver.providers.virtualsms import VirtualSMSSettings
from receiver.settings import load

VIRTUALSMS: Final = "virtualsms"
DAISYSIM: Final = "daisysim"

# Provider → dialect → event type → the dialect's name for it. Without a named dialect, the first
# one that has the event is used.
EVENTS: Final[Mapping[str, Mapping[str, Mapping[str, str]]]] = {
    VIRTUALSMS: {
        "v2": {
            SmsReceived.type: "order.sms_received",
            OrderConfirmed.type: "order.confirmed",
            OrderCancelled.type: "order.cancelled",
            OrderSwapped.type: "order.swapped",
            BalanceDeposited.type: "balance.deposited",
        },
        "v1": {
            SmsReceived.type: "sms.received",
            OrderCancelled.type: "order.cancelled",
            OrderExpired.type: "order.expired",
            OrderSwapped.type: "order.swapped",
            BalanceLow.type: "balance.low",
        },
        "flat": {
            SmsReceived.type: "sms_received",
            OrderExpired.type: "order_expired",
            BalanceDeposited.type: "deposit_confirmed",
        },
    },
    DAISYSIM: {"webhook": {SmsReceived.type: "code.received"}},
}

# The variables with which the receiver authenticates each provider.
SECRET_VARIABLES: Final[Mapping[str, str]] = {
    VIRTUALSMS: "VIRTUALSMS_WEBHOOK_SECRETS",
    DAISYSIM: "DAISYSIM_WEBHOOK_TOKENS",
}


class NoSuchEvent(ValueError):
    """Unknown provider, dialect or event; the message lists the valid ones."""


@dataclass(frozen=True, slots=True)
class Webhook:
    """A webhook request: POST ``body`` to ``path`` with ``headers``."""

    path: str = field(repr=False)
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class EventDetails:
    """The content of an event.

    ``at`` is by the provider's clock. ``extra`` contains fields of this event type only, and fields
    that override the defaults.
    """

    order: str
    code: str = field(repr=False)
    phone: str = field(repr=False)
    service: str = "telegram"
    country: str = "GB"
    at: datetime = field(default_factory=clock.now)
    event_id: str = field(default_factory=lambda: f"evt_{ULID()}")
    extra: Mapping[str, Any] = field(default_factory=dict, repr=False)


def choose(provider: str, event: str, dialect: str | None) -> tuple[str, str]:
    """The dialect to use, and its name for ``event``.

    Raises:
        NoSuchEvent: the provider, the dialect or the event does not exist.
    """
    dialects = EVENTS.get(provider)
    if dialects is None:
        raise NoSuchEvent(f"unknown provider {provider}; choose one of: {', '.join(EVENTS)}")
    if dialect is not None and dialect not in dialects:
        raise NoSuchEvent(
            f"{provider} has no dialect {dialect}; choose one of: {', '.join(dialects)}"
        )
    for known in dialects if dialect is None else [dialect]:
        if event in dialects[known]:
            return known, dialects[known][event]
    reported = dialects[dialect] if dialect else {e for names in dialects.values() for e in names}
    where = f"{provider} {dialect}" if dialect else provider
    raise NoSuchEvent(f"{where} has no event {event}; choose one of: {', '.join(sorted(reported))}")


def invent(provider: str, *, order: str | None, code: str | None) -> EventDetails:
    """The details of a fictional order, with a phone number that is reserved for fiction."""
    digits = secrets.randbelow(1_000_000)
    code = code or f"{digits:06}"
    if provider == DAISYSIM:
        phone = f"+1202555{100 + secrets.randbelow(100):04}"
        return EventDetails(order or str(100_000_000 + secrets.randbelow(900_000_000)), code, phone)
    phone = f"+447700900{secrets.randbelow(1000):03}"
    return EventDetails(order or f"ord_{secrets.token_hex(4)}", code, phone)


def known_secret(provider: str) -> str | None:
    """The provider's webhook secret or token in the environment; None if none is configured."""
    secrets_ = (
        load(DaisySIMSettings).daisysim_webhook_tokens
        if provider == DAISYSIM
        else load(VirtualSMSSettings).virtualsms_webhook_secrets
    )
    return secrets_[0].get_secret_value() if secrets_ else None


def secret_of(provider: str) -> str:
    """The provider's webhook secret or token in the environment.

    Raises:
        ConfigurationError: none is configured.
    """
    secret = known_secret(provider)
    if secret is None:
        variable = SECRET_VARIABLES[provider]
        raise ConfigurationError(
            f"{variable}: not set; set the value that the receiver authenticates webhooks with"
        )
    return secret


def webhook(
    provider: str, event: str, dialect: str | None, details: EventDetails, secret: str
) -> Webhook:
    """The webhook with which ``provider`` reports ``event``, authenticated with ``secret``.

    Raises:
        NoSuchEvent: see :func:`choose`.
    """
    chosen, name = choose(provider, event, dialect)
    body = encode_body(provider, chosen, name, event, details)
    return build_request(provider, chosen, body, secret, at=clock.now(), delivery=f"dlv_{ULID()}")


def encode_body(provider: str, dialect: str, name: str, event: str, details: EventDetails) -> bytes:
    """The body for ``event``, which the dialect calls ``name``; deterministic."""
    document = _DOCUMENTS[provider, dialect](name, event, details)
    return json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode()


def build_request(
    provider: str, dialect: str, body: bytes, secret: str, *, at: datetime, delivery: str
) -> Webhook:
    """The request of one delivery attempt at ``at``, authenticated with ``secret``."""
    headers = {"Content-Type": "application/json"}
    if provider == DAISYSIM:
        return Webhook(f"/webhooks/daisysim/{quote(secret, safe='')}", headers, body)
    signature = signatures.sign(secret.encode(), body).hex()
    if dialect == "flat":
        headers["X-Signature"] = signature
    elif dialect == "v2":
        headers["X-VirtualSMS-Signature"] = signature
    else:
        headers |= {
            "X-VirtualSMS-Signature": f"sha256={signature}",
            "X-VirtualSMS-Timestamp": str(int(at.timestamp())),
            "X-VirtualSMS-Delivery": delivery,
        }
    return Webhook("/webhooks/virtualsms", headers, body)


def _v2(name: str, event: str, details: EventDetails) -> dict[str, Any]:
    return {"type": name, "data": _fields(event, details)}


def _v1(name: str, event: str, details: EventDetails) -> dict[str, Any]:
    return {
        "id": details.event_id,
        "type": name,
        "created_at": clock.iso(details.at),
        "account_id": "00000000-0000-4000-8000-000000000000",
        "data": _fields(event, details),
    }


def _flat(name: str, event: str, details: EventDetails) -> dict[str, Any]:
    fields = _fields(event, details)
    fields.pop("country", None)
    if "code" in fields:
        fields["sms_code"] = fields.pop("code")
    return {"event": name, **fields}


def _daisysim(name: str, _: str, details: EventDetails) -> dict[str, Any]:
    return {
        "event": name,
        "activation_id": details.order,
        "phone_number": details.phone,
        "service": details.service,
        "code": details.code,
        "received_at": clock.iso(details.at),
    }


_Document = Callable[[str, str, EventDetails], dict[str, Any]]
_DOCUMENTS: Final[Mapping[tuple[str, str], _Document]] = {
    (VIRTUALSMS, "v2"): _v2,
    (VIRTUALSMS, "v1"): _v1,
    (VIRTUALSMS, "flat"): _flat,
    (DAISYSIM, "webhook"): _daisysim,
}


def _fields(event: str, details: EventDetails) -> dict[str, Any]:
    if event == BalanceDeposited.type:
        return {"amount": "25.00", "currency": "USD", **details.extra}
    if event == BalanceLow.type:
        return {"balance": "1.20", "currency": "USD", "threshold": "5.00", **details.extra}
    fields = {
        "order_id": details.order,
        "phone_number": details.phone,
        "service": details.service,
        "country": details.country,
    }
    if event == SmsReceived.type:
        text = f"Your {details.service} code is {details.code}"
        fields |= {"code": details.code, "full_text": text, "received_at": clock.iso(details.at)}
    return {**fields, **details.extra}
