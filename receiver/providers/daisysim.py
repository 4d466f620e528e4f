"""DaisySIM: one unsigned webhook for each activation, on its first code (API page, "Webhooks").

Nothing is signed, so the sender is known by a secret token in the URL, or in a header where a
proxy adds one. The webhook fires once: it must be stored at the first attempt or is gone.
"""

from __future__ import annotations

import hmac
import re
from typing import Annotated

from pydantic import SecretStr, field_validator
from pydantic_settings import BaseSettings, NoDecode

from receiver.errors import InvalidSignature, ProviderNotConfigured
from receiver.events import Event, SmsReceived
from receiver.providers.base import (
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

_TOKEN_HEADER = b"x-codecatch-token"
_SHORTEST_TOKEN = 16
# What a URL's path can hold as it is (RFC 3986, pchar): others would not come back as written.
_TOKEN = re.compile(rf"[A-Za-z0-9._~!$&'()*+;=:@-]{{{_SHORTEST_TOKEN},}}")
_AROUND = b" \t\"'<>"
_CODE_RECEIVED = "code.received"


class DaisySIMSettings(BaseSettings):
    """What the receiver needs to know its DaisySIM webhooks."""

    daisysim_webhook_tokens: Annotated[Secrets, NoDecode] = ()
    daisysim_allowed_addresses: Annotated[Networks, NoDecode] = ()

    @field_validator("daisysim_webhook_tokens")
    @classmethod
    def _long_enough(cls, tokens: tuple[SecretStr, ...]) -> tuple[SecretStr, ...]:
        if not all(_TOKEN.fullmatch(token.get_secret_value()) for token in tokens):
            raise ValueError(
                f"tokens of at least {_SHORTEST_TOKEN} characters that a URL can hold as they "
                "are (no / ? # % or space), separated by commas"
            )
        return tokens


class DaisySIM(Provider):
    """Webhooks of DaisySIM."""

    name = "daisysim"
    settings_type = DaisySIMSettings
    path_token = True

    def __init__(self, settings: DaisySIMSettings) -> None:
        self._tokens = [
            token.get_secret_value().encode() for token in settings.daisysim_webhook_tokens
        ]
        self.allowed_addresses = settings.daisysim_allowed_addresses

    @property
    def configured(self) -> bool:  # noqa: D102
        return bool(self._tokens)

    def authenticate(self, request: WebhookRequest) -> tuple[str, ...]:  # noqa: D102
        if not self._tokens:
            raise ProviderNotConfigured("DAISYSIM_WEBHOOK_TOKENS is empty")
        given = _tokens(request)
        if len(given) != 1:
            raise InvalidSignature(
                "more than one token: leave it in the URL or in X-Codecatch-Token"
                if given
                else "no token: the URL ends in one, or a proxy adds it as X-Codecatch-Token"
            )
        matches = [hmac.compare_digest(given[0], token) for token in self._tokens]
        if not any(matches):
            raise InvalidSignature("the token is not one of DAISYSIM_WEBHOOK_TOKENS")
        return ()

    def explain(self, request: WebhookRequest) -> str | None:  # noqa: D102
        given = _tokens(request)
        if len(given) != 1:
            return None
        token, alike = given[0], hmac.compare_digest
        likenesses = {
            "in other letters": [alike(token.lower(), known.lower()) for known in self._tokens],
            "with something around it": [alike(token.strip(_AROUND), t) for t in self._tokens],
            "cut short": [
                len(token) >= _SHORTEST_TOKEN // 2 and alike(token, known[: len(token)])
                for known in self._tokens
            ],
        }
        for likeness, fits in likenesses.items():
            if any(fits):
                return (
                    f"the token is one of DAISYSIM_WEBHOOK_TOKENS, but {likeness}: paste the URL "
                    "into DaisySIM's settings again"
                )
        return None

    @classmethod
    def event_key(cls, payload: Payload) -> str | None:  # noqa: ARG003, D102
        return None

    @classmethod
    def read(cls, payload: Payload) -> Event:  # noqa: D102
        name = text_of(payload, "event")
        at = time_of(payload, "received_at")
        if name != _CODE_RECEIVED:
            return unknown(cls.name, payload, at, name, codes=("code",))
        return SmsReceived(
            provider=cls.name,
            at=at,
            order_id=identifier_of(payload, "activation_id"),
            phone_number=text_of(payload, "phone_number"),
            service=label_of(payload, "service"),
            code=identifier_of(payload, "code"),
        )


def _tokens(request: WebhookRequest) -> list[bytes]:
    given = request.values(_TOKEN_HEADER)
    if request.token is not None:
        given = [*given, request.token.encode("utf-8", "surrogateescape")]
    return given
