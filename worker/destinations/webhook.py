"""The user's own service, through a signed webhook.

https://www.standardwebhooks.com: headers, signature, and the meaning of a response's status.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Collection, Sequence
from datetime import UTC, datetime
from typing import Any, ClassVar, Self

from standardwebhooks import Webhook as Signer

from receiver.clock import iso
from worker.destinations._http import foreign, is_page, post, requested_pause
from worker.destinations.base import DeliveryError, Destination, DestinationContext, Options
from worker.http.client import HttpClient, Response, encode_json
from worker.messages import text as messages
from worker.messages.text import Notification, Texts

_SECRET_PREFIX = "whsec_"  # noqa: S105 - the prefix of every secret
_SECRET_BYTES = range(24, 65)


class WebhookOptions(Options):
    """``url_env`` and ``secret_env`` name the variables that hold the URL and the secret."""

    url_env: str
    secret_env: str


class Webhook(Destination):
    """One endpoint that gets each notification as signed JSON.

    The id in the headers is the delivery's, the same for every attempt, so a receiver can use it
    as an idempotency key. An error status is retried, because a receiver that is being deployed
    may answer 404 or 401 for a while, and one whose secret is being changed 400. Only 410 (no more
    webhooks) and 422 (not this one) are final, and 422 only if it is no web page, which a proxy may
    have sent. Any 2xx is a success, whatever its body.

    Args:
        url: the endpoint; it may hold a secret.
        secrets: ``whsec_`` and base64 each; every one signs, so that a receiver can rotate them.

    Raises:
        ValueError: a secret is malformed; the text does not show it.
    """

    kind: ClassVar[str] = "webhook"
    deadline: ClassVar[float] = 7.0
    options_type: ClassVar[type[Options]] = WebhookOptions

    def __init__(
        self,
        name: str,
        *,
        url: str,
        secrets: Sequence[str],
        http: HttpClient,
        texts: Texts | None = None,
    ) -> None:
        super().__init__(name, texts)
        self._url = url
        self._signers = [Signer(_key(secret)) for secret in secrets]
        self._http = http

    @classmethod
    def make(cls, name: str, options: WebhookOptions, context: DestinationContext) -> Self:  # noqa: D102
        url = context.url("url_env", options.url_env, expected="an https:// URL")
        secrets = context.variable("secret_env", options.secret_env).split(",")
        try:
            return cls(
                name,
                url=url,
                secrets=[secret.strip() for secret in secrets],
                http=context.http,
                texts=context.texts,
            )
        except ValueError as error:
            raise ValueError(
                f"secret_env: the variable {options.secret_env} must hold {error}"
            ) from None

    def send(
        self, notifications: Sequence[Notification], *, only: Collection[str] | None = None
    ) -> None:
        """Post one notification; a 2xx response is success."""
        (notification,) = notifications
        now = datetime.now(UTC)
        content = encode_json(payload(notification, now))
        # The signed text is id.timestamp.body: a full stop in the id would make it ambiguous.
        message_id = re.sub(r"[^A-Za-z0-9_-]", "-", notification.delivery_id)
        headers = {
            "content-type": "application/json",
            "webhook-id": message_id,
            "webhook-timestamp": str(int(now.timestamp())),
            "webhook-signature": " ".join(
                signer.sign(message_id, now, content) for signer in self._signers
            ),
        }
        _check(
            post(
                self._http,
                self._url,
                who="the receiver",
                content=content.encode(),
                headers=headers,
                timeout=self.deadline,
            )
        )


def payload(notification: Notification, now: datetime) -> dict[str, Any]:
    """The JSON of one notification: the same keys for every type, ``null`` where unknown.

    ``timestamp`` is when the provider received the code, or ``now`` for other notifications.
    """
    text = notification.text
    occurred_at = notification.received_at or now
    return {
        "type": notification.type,
        "timestamp": iso(occurred_at, "seconds"),
        "data": {
            "event_id": notification.event_id,
            "delivery_id": notification.delivery_id,
            **{
                name: value if value is None else messages.plain(value)
                for name, value in (
                    ("provider", notification.provider),
                    ("order_id", notification.order_id),
                    ("phone_number", notification.phone_number),
                    ("service", notification.service),
                    ("country", notification.country),
                    ("code", notification.code),
                )
            },
            "text": text if text is None else messages.paragraphs(text),
            "received_at": (
                iso(notification.received_at, "seconds") if notification.received_at else None
            ),
            "marks": [messages.plain(mark) for mark in notification.marks],
            "detail": notification.detail and messages.paragraphs(notification.detail),
        },
    }


def _key(secret: str) -> bytes:
    # The library would ignore characters that are not base64, and sign with the rest.
    try:
        key = base64.b64decode(secret.removeprefix(_SECRET_PREFIX), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if not secret.startswith(_SECRET_PREFIX) or len(key) not in _SECRET_BYTES:
        raise ValueError(
            f"{_SECRET_PREFIX} and base64 of 24 to 64 random bytes; separate several by commas"
        )
    return key


def _check(response: Response) -> None:
    """Raise the error that the response stands for; return if it is a success."""
    status = response.status
    if 200 <= status < 300:
        return
    if status == 410:
        raise DeliveryError("the receiver accepts no more webhooks (410)", permanent=True)
    if 300 <= status < 400 or (status < 500 and is_page(response)):
        raise foreign("the receiver", status)
    if status == 422:
        raise DeliveryError(
            "the receiver refused the message (422)", permanent=True, message_only=True
        )
    pause = requested_pause(response)
    if pause is not None and status in {429, 502, 503, 504}:
        raise DeliveryError(f"the receiver asked for a pause ({status})", retry_after=pause)
    raise DeliveryError(f"the receiver answered with status {status}")
