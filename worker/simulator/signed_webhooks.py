"""The providers' webhooks, made and signed as the providers do, with fictional content.

Which events a dialect has, and what it calls them, is what the provider's documents say; see the
readers in :mod:`receiver.providers` for those documents.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
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

# Provider → dialect → event type → the dialect's name for it; the first dialect that has the
# event is taken where none is named.
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

# What the receiver knows each provider by.
SECRET_VARIABLES: Final[Mapping[str, str]] = {
    VIRTUALSMS: "VIRTUALSMS_WEBHOOK_SECRETS",
    DAISYSIM: "DAISYSIM_WEBHOOK_TOKENS",
}


class NoSuchEvent(ValueError):
    """The provider, or the dialect that was named, reports nothing of this kind; says what does."""


@dataclass(frozen=True, slots=True)
class Webhook:
    """A request: POST ``body`` to ``path`` with ``headers``."""

    path: str = field(repr=False)
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Facts:
    """What an event is about; each order of the fictional ones has a number of its own.

    ``at`` is the provider's clock. ``more`` are fields that only this kind of event has, or that
    differ from what is usually sent.
    """

    order: str
    code: str = field(repr=False)
    phone: str = field(repr=False)
    service: str = "telegram"
    country: str = "GB"
    at: datetime = field(default_factory=clock.now)
    event_id: str = field(default_factory=lambda: f"evt_{ULID()}")
    more: Mapping[str, Any] = field(default_factory=dict, repr=False)


def choose(provider: str, event: str, dialect: str | None) -> tuple[str, str]:
    """The dialect, and its name for ``event``.

    Raises:
        NoSuchEvent: there is no such provider, dialect or event.
    """
    dialects = EVENTS.get(provider)
    if dialects is None:
        raise NoSuchEvent(f"there is no provider {provider}: {', '.join(EVENTS)}")
    if dialect is not None and dialect not in dialects:
        raise NoSuchEvent(f"{provider} has no dialect {dialect}: {', '.join(dialects)}")
    for known in dialects if dialect is None else [dialect]:
        if event in dialects[known]:
            return known, dialects[known][event]
    reported = dialects[dialect] if dialect else {e for names in dialects.values() for e in names}
    spoken = f"{provider} {dialect}" if dialect else provider
    raise NoSuchEvent(f"{spoken} reports no {event}: {', '.join(sorted(reported))}")


def invent(provider: str, *, order: str | None, code: str | None) -> Facts:
    """Facts about an order that nobody has, on a number that is set aside for fiction."""
    digits = secrets.randbelow(1_000_000)
    code = code or f"{digits:06}"
    if provider == DAISYSIM:
        phone = f"+1202555{100 + secrets.randbelow(100):04}"
        return Facts(order or str(100_000_000 + secrets.randbelow(900_000_000)), code, phone)
    phone = f"+447700900{secrets.randbelow(1000):03}"
    return Facts(order or f"ord_{secrets.token_hex(4)}", code, phone)


def known_secret(provider: str) -> str | None:
    """What the receiver knows this provider by, as the environment says; None: nothing yet."""
    known = (
        load(DaisySIMSettings).daisysim_webhook_tokens
        if provider == DAISYSIM
        else load(VirtualSMSSettings).virtualsms_webhook_secrets
    )
    return known[0].get_secret_value() if known else None


def secret_of(provider: str) -> str:
    """What the receiver knows this provider by, as the environment says.

    Raises:
        ConfigurationError: it is not configured.
    """
    known = known_secret(provider)
    if known is None:
        variable = SECRET_VARIABLES[provider]
        raise ConfigurationError(f"{variable}: is required: the receiver would know nothing by it")
    return known


def webhook(provider: str, event: str, dialect: str | None, facts: Facts, secret: str) -> Webhook:
    """The webhook by which ``provider`` reports ``event``, authentic under ``secret``.

    Raises:
        NoSuchEvent: see :func:`choose`.
    """
    chosen, name = choose(provider, event, dialect)
    body = write(provider, chosen, name, event, facts)
    return address(provider, chosen, body, secret, at=clock.now(), delivery=f"dlv_{ULID()}")


def write(provider: str, dialect: str, name: str, event: str, facts: Facts) -> bytes:
    """The body that reports ``event``, which the dialect calls ``name``; the same every time."""
    return _encode(_WRITERS[provider, dialect](name, event, facts))


def address(
    provider: str, dialect: str, body: bytes, secret: str, *, at: datetime, delivery: str
) -> Webhook:
    """One attempt, begun at ``at``, to deliver a body; authentic under ``secret``."""
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


def _v2(name: str, event: str, facts: Facts) -> dict[str, Any]:
    return {"type": name, "data": _fields(event, facts)}


def _v1(name: str, event: str, facts: Facts) -> dict[str, Any]:
    return {
        "id": facts.event_id,
        "type": name,
        "created_at": iso(facts.at),
        "account_id": "00000000-0000-4000-8000-000000000000",
        "data": _fields(event, facts),
    }


def _flat(name: str, event: str, facts: Facts) -> dict[str, Any]:
    fields = _fields(event, facts)
    fields.pop("country", None)
    if "code" in fields:
        fields["sms_code"] = fields.pop("code")
    return {"event": name, **fields}


def _daisysim(name: str, _: str, facts: Facts) -> dict[str, Any]:
    return {
        "event": name,
        "activation_id": facts.order,
        "phone_number": facts.phone,
        "service": facts.service,
        "code": facts.code,
        "received_at": iso(facts.at),
    }


_Writer = Callable[[str, str, Facts], dict[str, Any]]
_WRITERS: Final[Mapping[tuple[str, str], _Writer]] = {
    (VIRTUALSMS, "v2"): _v2,
    (VIRTUALSMS, "v1"): _v1,
    (VIRTUALSMS, "flat"): _flat,
    (DAISYSIM, "webhook"): _daisysim,
}


def _fields(event: str, facts: Facts) -> dict[str, Any]:
    if event == BalanceDeposited.type:
        return {"amount": "25.00", "currency": "USD", **facts.more}
    if event == BalanceLow.type:
        return {"balance": "1.20", "currency": "USD", "threshold": "5.00", **facts.more}
    fields = {
        "order_id": facts.order,
        "phone_number": facts.phone,
        "service": facts.service,
        "country": facts.country,
    }
    if event == SmsReceived.type:
        text = f"Your {facts.service} code is {facts.code}"
        fields |= {"code": facts.code, "full_text": text, "received_at": iso(facts.at)}
    return {**fields, **facts.more}


def _encode(document: Mapping[str, Any]) -> bytes:
    return json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode()


def iso(moment: datetime) -> str:
    """A time as the providers write it: UTC, to the millisecond, with a Z."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
