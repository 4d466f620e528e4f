"""The interface of a webhook provider, and helpers to read its payloads.

To add a provider, write a module beside this one with a :class:`Provider` subclass. It
authenticates requests (:meth:`Provider.authenticate`), returns an event's idempotency key
(:meth:`Provider.event_key`), and parses its payload (:meth:`Provider.read`). Providers do no I/O.
The worker calls only the class methods, so it needs no webhook secret.
"""

from __future__ import annotations

import abc
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, ClassVar

from pydantic_settings import BaseSettings

from receiver.errors import MalformedPayload, ProviderNotConfigured
from receiver.events import Event, UnknownEvent
from receiver.setting_types import Networks

Payload = Mapping[str, Any]
MAX_NAME_LENGTH = 200


@dataclass(slots=True)
class WebhookRequest:
    """The parts of a request that authentication needs; ``repr`` shows only the time.

    Attributes:
        headers: names in lower case, in the order received.
        body: the raw body.
        token: the last segment of the path, or None if the path has no token.
        at: when the request arrived.
    """

    headers: Sequence[tuple[bytes, bytes]] = field(repr=False)
    body: bytes = field(repr=False)
    token: str | None = field(repr=False)
    at: datetime

    def values(self, name: bytes) -> list[bytes]:
        """Return every value of the header ``name``."""
        return [value for key, value in self.headers if key == name]


@dataclass(frozen=True, slots=True)
class Limits:
    """What one credential may send. For a credential that a stranger could learn from a request.

    Attributes:
        largest_body: bytes of a body; the variable is ``NAME_LARGEST_BODY``.
        rate: requests a second, in the long run; the variable is ``NAME_RATE``.
    """

    largest_body: int
    rate: float


class Provider(abc.ABC):
    """A provider of webhooks.

    Attributes:
        name: the provider's name; the module and the URL path have the same.
        settings_type: its settings, read from the environment.
        path_token: its URL may end in a token.
        allowed_addresses: networks it may send from; empty: any address.
        limits: what each of its credentials may send; None: no limit but the receiver's.
    """

    name: ClassVar[str]
    settings_type: ClassVar[type[BaseSettings]]
    path_token: ClassVar[bool] = False
    allowed_addresses: Networks = ()
    limits: Limits | None = None

    @abc.abstractmethod
    def __init__(self, settings: Any) -> None: ...

    @property
    @abc.abstractmethod
    def configured(self) -> bool:
        """Whether it has a secret or token to authenticate webhooks with."""

    @abc.abstractmethod
    def authenticate(self, request: WebhookRequest) -> tuple[str, ...]:
        """Verify that the provider sent the request; return notes for the operator, often none.

        Raises:
            InvalidSignature: the request is not authentic.
            ProviderNotConfigured: there is no secret or token to check it with.
        """

    def authenticate_url(self, request: WebhookRequest) -> None:
        """Verify a request that only asks what is at the URL, and has no body.

        A URL that may end in a token answers only to those who know the token. Any other is no
        secret.

        Raises:
            InvalidSignature, ProviderNotConfigured: as :meth:`authenticate`.
        """
        if self.path_token:
            self.authenticate(request)
        elif not self.configured:
            raise ProviderNotConfigured(f"nothing is configured to verify {self.name} with")

    def credential(self, request: WebhookRequest) -> bytes:
        """Return the credential that :meth:`authenticate` accepted; ``limits`` apply to each."""
        raise NotImplementedError("a provider with limits says what they apply to")

    def explain(self, request: WebhookRequest) -> str | None:
        """Return a hint for the operator if a configuration mistake explains a failed request.

        The hint says what to do and holds no part of a secret. This may take a few milliseconds:
        it is called at a limited rate, and only after :meth:`authenticate` has failed.
        """
        return None

    @classmethod
    @abc.abstractmethod
    def event_key(cls, payload: Payload) -> str | None:
        """Return the provider's own id of this event, or None if it sends none."""

    @classmethod
    def is_test(cls, payload: Payload) -> bool:  # noqa: ARG003
        """Return whether this is the provider's test event."""
        return False

    @classmethod
    def may_recur(cls, payload: Payload) -> bool:  # noqa: ARG003
        """Return whether a later event may have the very same body.

        True for an event with neither an id nor a time: the provider repeats a webhook for some
        hours, but a second deposit of the same amount has the same body too. It must not raise.
        """
        return False

    @classmethod
    @abc.abstractmethod
    def read(cls, payload: Payload) -> Event:
        """Parse the payload.

        Raises:
            MalformedPayload: the payload is invalid; the message names the field and never quotes
                a value.
        """


def text_of(fields: Payload, *names: str) -> str | None:
    """Return the first text among the fields ``names``; None if all are absent, null or empty.

    Raises:
        MalformedPayload: the field is not text. It is not converted: a code written as a number
            has lost its leading zeros.
    """
    for name in names:
        value = fields.get(name)
        if value is None or value == "":
            continue
        if not isinstance(value, str):
            raise MalformedPayload(f"{name}: expected text, found {_kind(value)}")
        return value
    return None


def required_text(fields: Payload, *names: str) -> str:
    """Like :func:`text_of`, for a mandatory field."""
    value = text_of(fields, *names)
    if value is None:
        raise MalformedPayload(f"{' or '.join(names)}: missing or empty")
    return value


def unknown(
    provider: str, fields: Payload, at: datetime | None, name: str | None, *, codes: Sequence[str]
) -> UnknownEvent:
    """Return the event for an undocumented name; it has no effects.

    Raises:
        MalformedPayload: it has a code (one of the fields ``codes``). If a provider renames its
            events, codes must not be dropped silently.
    """
    code_field = next((field for field in codes if fields.get(field)), None)
    if code_field is not None:
        raise MalformedPayload(f"undocumented event with a code in {code_field}")
    return UnknownEvent(provider=provider, at=at, name=name)


def identifier_of(fields: Payload, *names: str) -> str:
    """Return a mandatory identifier: printable, and short enough for a database index."""
    value = required_text(fields, *names)
    if len(value) > MAX_NAME_LENGTH or not value.isprintable():
        raise MalformedPayload(
            f"{' or '.join(names)}: over {MAX_NAME_LENGTH} characters, or not printable"
        )
    return value


def label_of(fields: Payload, *names: str) -> str | None:
    """Return a descriptive field (service, country, amount), numbers as text.

    None if it is absent, too long or not printable: no code should wait for a description.
    """
    for name in names:
        value = fields.get(name)
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            return str(value)
        if isinstance(value, str) and 0 < len(value) <= MAX_NAME_LENGTH and value.isprintable():
            return value
    return None


def time_of(fields: Payload, *names: str) -> datetime | None:
    """Return an ISO 8601 time or Unix seconds as UTC; None if there is none, or it is invalid.

    The provider's time orders events and is shown to people. It is not important enough to
    reject a code for it.
    """
    for name in names:
        value = fields.get(name)
        try:
            if isinstance(value, str) and value:
                moment = datetime.fromisoformat(value)
                return moment.replace(tzinfo=moment.tzinfo or UTC).astimezone(UTC)
            if isinstance(value, (int, float)) and not isinstance(value, bool):
                return datetime.fromtimestamp(value, UTC)
        except (ValueError, OverflowError, OSError):
            continue
    return None


def _kind(value: object) -> str:
    names = {bool: "a boolean", int: "a number", float: "a number", list: "a list"}
    return names.get(type(value), "an object")
