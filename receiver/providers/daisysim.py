"""DaisySIM: one unsigned webhook per activation, on its first code (API page, "Webhooks").

Nothing is signed, so a secret token authenticates the request: in the URL, or in a header that a
proxy adds. DaisySIM does not retry: an event that is not stored at the first attempt is lost.
"""

from __future__ import annotations

import hmac
import re
from typing import Annotated

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, NoDecode

from receiver.errors import InvalidSignature, MalformedPayload, ProviderNotConfigured
from receiver.events import Event, SmsReceived, UnknownEvent
from receiver.providers.base import (
    Limits,
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
from receiver.providers.payload import Payload, fields_of
from receiver.setting_types import Networks, Secrets

_TOKEN_HEADER = b"x-codecatch-token"
_MIN_TOKEN_LENGTH = 16
# Characters that a URL path holds unescaped (RFC 3986, pchar): others would be changed on the way.
_TOKEN = re.compile(rf"[A-Za-z0-9._~!$&'()*+;=:@-]{{{_MIN_TOKEN_LENGTH},}}")
# Quotes, brackets and blanks that are often copied with a URL.
_STRIPPED = b" \t\"'<>"
_CODE_RECEIVED = "code.received"
_ORDER_IDS = ("activation_id", "order_id", "inner_id")
_CODES = ("code", "sms_code", "otp", "otp_code", "verification_code")
# The sample values of the API page (activation, number, code): a test button may send them.
_SAMPLE = ["123456789", "+79001234567", "483921"]


class DaisySIMSettings(BaseSettings):
    """Tokens, their limits, and the allowed networks of DaisySIM's webhooks.

    A token is part of a URL, and a URL may leak; the limits bound what a stranger can store with
    it. They are far above an account's real webhooks, of some hundred bytes each.
    """

    daisysim_webhook_tokens: Annotated[Secrets, NoDecode] = ()
    daisysim_allowed_addresses: Annotated[Networks, NoDecode] = ()
    daisysim_largest_body: int = Field(default=8 * 1024, gt=0)
    daisysim_rate: float = Field(default=20, gt=0, allow_inf_nan=False)

    @field_validator("daisysim_webhook_tokens")
    @classmethod
    def _check_tokens(cls, tokens: tuple[SecretStr, ...]) -> tuple[SecretStr, ...]:
        if not all(_TOKEN.fullmatch(token.get_secret_value()) for token in tokens):
            raise ValueError(
                f"tokens of at least {_MIN_TOKEN_LENGTH} characters that a URL path holds "
                "unescaped (no / ? # % or space), separated by commas"
            )
        return tokens


class DaisySIM(Provider):
    """DaisySIM's webhooks."""

    name = "daisysim"
    settings_type = DaisySIMSettings
    path_token = True

    def __init__(self, settings: DaisySIMSettings) -> None:
        self._tokens = [
            token.get_secret_value().encode() for token in settings.daisysim_webhook_tokens
        ]
        self.allowed_addresses = settings.daisysim_allowed_addresses
        self.limits = Limits(settings.daisysim_largest_body, settings.daisysim_rate)

    @property
    def configured(self) -> bool:  # noqa: D102
        return bool(self._tokens)

    def authenticate(self, request: WebhookRequest) -> tuple[str, ...]:  # noqa: D102
        if not self._tokens:
            raise ProviderNotConfigured("DAISYSIM_WEBHOOK_TOKENS is empty")
        received = _tokens(request)
        if len(received) != 1:
            raise InvalidSignature(
                "more than one token: send it in the URL or in X-Codecatch-Token, not in both"
                if received
                else "no token: end the webhook URL with it, or add X-Codecatch-Token in a proxy"
            )
        matches = [hmac.compare_digest(received[0], token) for token in self._tokens]
        if not any(matches):
            raise InvalidSignature("the token is not in DAISYSIM_WEBHOOK_TOKENS")
        return ()

    def credential(self, request: WebhookRequest) -> bytes:  # noqa: D102
        (token,) = _tokens(request)
        return token

    def explain(self, request: WebhookRequest) -> str | None:  # noqa: D102
        received = _tokens(request)
        if len(received) != 1:
            return None
        token, equal = received[0], hmac.compare_digest
        mistakes = {
            "differs in case": [equal(token.lower(), known.lower()) for known in self._tokens],
            "has extra characters around it": [
                equal(token.strip(_STRIPPED), known) for known in self._tokens
            ],
            "is cut off": [
                len(token) >= _MIN_TOKEN_LENGTH // 2 and equal(token, known[: len(token)])
                for known in self._tokens
            ],
        }
        for mistake, matches in mistakes.items():
            if any(matches):
                return (
                    f"the token is in DAISYSIM_WEBHOOK_TOKENS but {mistake}: paste the webhook "
                    "URL into DaisySIM's settings again"
                )
        return None

    @classmethod
    def event_key(cls, payload: Payload) -> str | None:  # noqa: ARG003, D102
        return None

    @classmethod
    def is_test(cls, payload: Payload) -> bool:  # noqa: D102
        sample = [payload.get(name) for name in ("activation_id", "phone_number", "code")]
        return is_yes(payload.get("test")) or [str(each) for each in sample] == _SAMPLE

    @classmethod
    def order_of(cls, payload: Payload) -> str | None:  # noqa: D102
        return order_in(payload, *_ORDER_IDS)

    @classmethod
    def read(cls, payload: Payload) -> Event:  # noqa: D102
        fields = fields_of(payload)
        name = text_of(fields, "event", "type", "event_type")
        at = time_of(fields, "received_at", "created_at", "timestamp", "time", "date")
        is_code = event_name(name) == event_name(_CODE_RECEIVED) or (
            name is None and text_of(fields, *_CODES) is not None
        )
        if is_yes(fields.get("test")):
            return UnknownEvent(provider=cls.name, name="test")
        if not is_code:
            return unknown(cls.name, fields, at, name, codes=_CODES)
        text = text_of(fields, "text", "full_text", "sms", "message", "sms_text")
        order_id = identifier_of(fields, *_ORDER_IDS)
        number = label_of(fields, "phone_number", "phone", "number")
        read = code_of(fields, text, *_CODES, other_numbers=(number or "", order_id))
        if read.code is None and text is None:
            raise MalformedPayload("code: missing or empty")
        return SmsReceived(
            provider=cls.name,
            **when(at),
            order_id=order_id,
            phone_number=number,
            service=label_of(fields, "service", "service_name"),
            country=label_of(fields, "country", "country_id"),
            code=read.code,
            text=text,
            extracted=read.extracted,
            may_lack_zeros=read.may_lack_zeros,
        )


def _tokens(request: WebhookRequest) -> list[bytes]:
    tokens = request.values(_TOKEN_HEADER)
    if request.token is not None:
        tokens = [*tokens, request.token.encode("utf-8", "surrogateescape")]
    return tokens
