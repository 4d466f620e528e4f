"""The providers' webhooks, made and signed as the providers do, with fictional content.

Which events a dialect has, and what it calls them, is what the provider's documents say; see the
readers in :mod:`receiver.providers` for those documents.
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import quote

from ulid import ULID

from receiver import clock, signatures
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
    """What an event is about; each order of the fictional ones has a number of its own."""

    order: str
    code: str = field(repr=False)
    phone: str = field(repr=False)
    service: str = "telegram"


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


def secret_of(provider: str) -> str:
    """What the receiver would know this provider by, as the environment says.

    Raises:
        ConfigurationError: it is not configured.
    """
    variable, known = (
        ("DAISYSIM_WEBHOOK_TOKENS", load(DaisySIMSettings).daisysim_webhook_tokens)
        if provider == DAISYSIM
        else ("VIRTUALSMS_WEBHOOK_SECRETS", load(VirtualSMSSettings).virtualsms_webhook_secrets)
    )
    if not known:
        raise ConfigurationError(f"{variable}: is required: the receiver would know nothing by it")
    return known[0].get_secret_value()


def webhook(provider: str, event: str, dialect: str | None, facts: Facts, secret: str) -> Webhook:
    """The webhook by which ``provider`` reports ``event``, authentic under ``secret``.

    Raises:
        NoSuchEvent: see :func:`choose`.
    """
    chosen, name = choose(provider, event, dialect)
    return _MAKERS[provider, chosen](name, event, facts, secret)


def _v2(name: str, event: str, facts: Facts, secret: str) -> Webhook:
    body = _encode({"type": name, "data": _fields(event, facts)})
    return _virtualsms(
        body, {"X-VirtualSMS-Signature": signatures.sign(secret.encode(), body).hex()}
    )


def _v1(name: str, event: str, facts: Facts, secret: str) -> Webhook:
    document = {
        "id": f"evt_{ULID()}",
        "type": name,
        "created_at": _now(),
        "account_id": "00000000-0000-4000-8000-000000000000",
        "data": _fields(event, facts),
    }
    body = _encode(document)
    headers = {
        "X-VirtualSMS-Signature": f"sha256={signatures.sign(secret.encode(), body).hex()}",
        "X-VirtualSMS-Timestamp": str(int(time.time())),
        "X-VirtualSMS-Delivery": f"dlv_{ULID()}",
    }
    return _virtualsms(body, headers)


def _flat(name: str, event: str, facts: Facts, secret: str) -> Webhook:
    fields = _fields(event, facts)
    fields.pop("country", None)
    if "code" in fields:
        fields["sms_code"] = fields.pop("code")
    body = _encode({"event": name, **fields})
    return _virtualsms(body, {"X-Signature": signatures.sign(secret.encode(), body).hex()})


def _daisysim(name: str, _: str, facts: Facts, secret: str) -> Webhook:
    document = {
        "event": name,
        "activation_id": facts.order,
        "phone_number": facts.phone,
        "service": facts.service,
        "code": facts.code,
        "received_at": _now(),
    }
    path = f"/webhooks/daisysim/{quote(secret, safe='')}"
    return Webhook(path, {"Content-Type": "application/json"}, _encode(document))


_Maker = Callable[[str, str, Facts, str], Webhook]
_MAKERS: Final[Mapping[tuple[str, str], _Maker]] = {
    (VIRTUALSMS, "v2"): _v2,
    (VIRTUALSMS, "v1"): _v1,
    (VIRTUALSMS, "flat"): _flat,
    (DAISYSIM, "webhook"): _daisysim,
}


def _fields(event: str, facts: Facts) -> dict[str, Any]:
    if event == BalanceDeposited.type:
        return {"amount": "25.00", "currency": "USD"}
    if event == BalanceLow.type:
        return {"balance": "1.20", "currency": "USD", "threshold": "5.00"}
    fields = {
        "order_id": facts.order,
        "phone_number": facts.phone,
        "service": facts.service,
        "country": "GB",
    }
    if event == SmsReceived.type:
        text = f"Your {facts.service} code is {facts.code}"
        fields |= {"code": facts.code, "full_text": text, "received_at": _now()}
    return fields


def _virtualsms(body: bytes, headers: Mapping[str, str]) -> Webhook:
    return Webhook("/webhooks/virtualsms", {"Content-Type": "application/json", **headers}, body)


def _encode(document: Mapping[str, Any]) -> bytes:
    return json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode()


def _now() -> str:
    moment: datetime = clock.now()
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
