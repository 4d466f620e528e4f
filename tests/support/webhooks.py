"""Builds the providers' webhooks from their documents.

The tests compare the receiver with these, so this module shares no code with it.
"""

import base64
import hashlib
import hmac
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, Self, TypedDict, Unpack

from ulid import ULID

SignatureStyle = Literal["hex", "HEX", "sha256=", "base64"]
SIGNATURE_STYLES: tuple[SignatureStyle, ...] = ("hex", "HEX", "sha256=", "base64")

SECRET = "whsec_made-up-for-tests-0123456789"
TOKEN = "made-up-path-token-0123456789"
ORDER = "ord_7f3a91c2"
ACTIVATION = "123456789"
CODE = "483921"
UK_PHONE = "+447700900123"
US_PHONE = "+12025550147"
ACCOUNT = "0b7c1d8e-52a4-4f0e-9a53-2f6d8c1e7a90"

VIRTUALSMS_PATH = "/webhooks/virtualsms"
DAISYSIM_PATH = "/webhooks/daisysim"

# Events with an SMS, one for each dialect; no other event has a code.
_SMS_EVENTS = frozenset({"order.sms_received", "sms.received", "sms_received"})

_SAMPLES = Path(__file__).parents[1] / "samples"


@dataclass(frozen=True, slots=True)
class Webhook:
    """A webhook request: POST `body` to `path` with `headers`."""

    path: str
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        """Return the body parsed as JSON."""
        return json.loads(self.body)

    def with_body(self, body: bytes) -> Self:
        """Return a forgery: another body with the same signature."""
        return replace(self, body=body)

    def with_headers(self, **headers: str | None) -> Self:
        """Return it with other headers; None removes one. `_` in a name stands for `-`."""
        changed = {name.replace("_", "-"): value for name, value in headers.items()}
        names = {name.lower() for name in changed}
        others = {name: value for name, value in self.headers.items() if name.lower() not in names}
        added = {name: value for name, value in changed.items() if value is not None}
        return replace(self, headers=others | added)


def signature(body: bytes, secret: str, style: SignatureStyle = "hex") -> str:
    """Return the HMAC-SHA256 of the raw body with the secret's UTF-8 bytes, encoded in `style`."""
    digest = hmac.new(secret.encode(), body, hashlib.sha256).digest()
    match style:
        case "hex":
            return digest.hex()
        case "HEX":
            return digest.hex().upper()
        case "sha256=":
            return f"sha256={digest.hex()}"
        case "base64":
            return base64.b64encode(digest).decode()


def encode(document: Any) -> bytes:
    """Return a document as compact JSON."""
    return json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode()


def envelope_id() -> str:
    """Return a new event id in the format of the v1 envelope."""
    return f"evt_{ULID()}"


def iso(moment: datetime | None = None) -> str:
    """Return a time, now by default, as ISO 8601 in UTC with milliseconds and a Z."""
    text = (moment or datetime.now(UTC)).astimezone(UTC).isoformat(timespec="milliseconds")
    return text.replace("+00:00", "Z")


class Fields(TypedDict, total=False):
    """What a VirtualSMS event says; ``data`` adds or replaces fields of the body."""

    order: str
    code: str | None
    phone: str
    service: str
    text: str | None
    country: str
    received_at: str | None
    data: Mapping[str, Any]


def virtualsms_v2(
    *,
    event: str = "order.sms_received",
    event_id: str | None = None,
    name_key: Literal["type", "event"] = "type",
    nested: bool = True,
    secret: str = SECRET,
    style: SignatureStyle = "hex",
    **fields: Unpack[Fields],
) -> Webhook:
    """Return a webhook of API v2; `nested` fields are in `data`, else beside the event's name.

    `name_key` is the field of the event's name. The document specifies neither fields nor an id:
    the fields are those of the v1 envelope, and there is an id only if `event_id` is given.
    """
    data = _virtualsms_fields(event, **fields)
    document: dict[str, Any] = {} if event_id is None else {"id": event_id}
    document[name_key] = event
    document |= {"data": data} if nested else data
    return signed(encode(document), secret=secret, style=style)


def virtualsms_v1(
    *,
    event: str = "sms.received",
    event_id: str | None = None,
    created_at: str | None = None,
    test: bool = False,
    secret: str = SECRET,
    style: SignatureStyle = "sha256=",
    timestamp: int | None = None,
    delivery: str | None = None,
    **fields: Unpack[Fields],
) -> Webhook:
    """Return a webhook in the v1 envelope, with new ids, times and headers by default.

    `timestamp` is in Unix seconds.
    """
    marked: dict[str, Any] = {"test": True} if test else {}
    fields["data"] = marked | dict(fields.get("data", {}))
    document = {
        "id": event_id or envelope_id(),
        "type": event,
        "created_at": created_at or iso(),
        "account_id": ACCOUNT,
        "data": _virtualsms_fields(event, **fields),
    }
    webhook = signed(encode(document), secret=secret, style=style)
    seconds = int(time.time()) if timestamp is None else timestamp
    return webhook.with_headers(
        X_VirtualSMS_Timestamp=str(seconds), X_VirtualSMS_Delivery=delivery or f"dlv_{ULID()}"
    )


def virtualsms_flat(
    *, secret: str = SECRET, style: SignatureStyle = "hex", **fields: Unpack[Fields]
) -> Webhook:
    """Return a webhook of the flat dialect about an SMS, signed in X-Signature."""
    document: dict[str, Any] = {"event": "sms_received"}
    document |= _virtualsms_fields("sms_received", **fields)
    document["sms_code"] = document.pop("code")
    del document["country"]
    return signed(encode(document), secret=secret, style=style, header="X-Signature")


def daisysim(
    *,
    activation: str = ACTIVATION,
    code: str | None = CODE,
    phone: str = US_PHONE,
    service: str = "WhatsApp",
    received_at: str | None = None,
    event: str = "code.received",
    data: Mapping[str, Any] | None = None,
    token: str | None = TOKEN,
    token_in: Literal["path", "header"] = "path",
) -> Webhook:
    """Return a webhook of DaisySIM: unsigned, with a token in the path or a header.

    `data` adds or replaces fields.
    """
    document: dict[str, Any] = {
        "event": event,
        "activation_id": activation,
        "phone_number": phone,
        "service": service,
        "code": code,
        "received_at": received_at or iso(),
    }
    document |= dict(data or {})
    headers = {"Content-Type": "application/json"}
    path = DAISYSIM_PATH
    if token is not None and token_in == "path":
        path = f"{DAISYSIM_PATH}/{token}"
    elif token is not None:
        headers["X-Codecatch-Token"] = token
    return Webhook(path, headers, encode(document))


def signed(
    body: bytes,
    *,
    secret: str = SECRET,
    style: SignatureStyle = "hex",
    header: str = "X-VirtualSMS-Signature",
) -> Webhook:
    """Return any body as a correctly signed webhook of VirtualSMS."""
    headers = {"Content-Type": "application/json", header: signature(body, secret, style)}
    return Webhook(VIRTUALSMS_PATH, headers, body)


def samples(provider: str) -> list[Path]:
    """Return the files with a provider's sample bodies, one for each event of each dialect."""
    return sorted((_SAMPLES / provider).glob("*.json"))


def sample(provider: str, name: str) -> bytes:
    """Return one sample body."""
    return (_SAMPLES / provider / f"{name}.json").read_bytes()


def _virtualsms_fields(
    event: str,
    *,
    order: str = ORDER,
    code: str | None = CODE,
    phone: str = UK_PHONE,
    service: str = "telegram",
    text: str | None = None,
    country: str = "GB",
    received_at: str | None = None,
    data: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "order_id": order,
        "phone_number": phone,
        "service": service,
        "country": country,
    }
    if event == "balance.deposited":
        fields = {"amount": "25.00", "currency": "USD", "balance": "31.40"}
    elif event == "balance.low":
        fields = {"balance": "1.20", "currency": "USD", "threshold": "5.00"}
    elif event in _SMS_EVENTS:
        shown = f"Your {service} code is {code}" if code is not None else f"Hello from {service}"
        fields["code"] = code
        fields["full_text"] = shown if text is None else text
        fields["received_at"] = received_at or iso()
    elif event == "order.cancelled":
        fields |= {"refunded_amount": "0.18", "refund_currency": "USD", "reason": "user_cancelled"}
    return fields | dict(data or {})
