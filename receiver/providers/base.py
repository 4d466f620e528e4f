"""What it takes to receive a provider's webhooks. No provider does any I/O.

To add a provider, write a module beside this one with a :class:`Provider` subclass: who may send
(:meth:`Provider.authenticate`), what identifies an event (:meth:`Provider.event_key`), and what
it says (:meth:`Provider.read`). The worker calls only the class methods, and so holds no secret
of the receiving side.
"""

from __future__ import annotations

import abc
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, ClassVar

from pydantic_settings import BaseSettings

from receiver.errors import MalformedPayload
from receiver.events import Event, UnknownEvent
from receiver.setting_types import Networks

Payload = Mapping[str, Any]
LONGEST_NAME = 200


@dataclass(slots=True)
class WebhookRequest:
    """One request as far as authentication cares; nothing of it shows in a ``repr``.

    ``headers`` has lower-case names in the order received; ``token`` is the last part of the
    path, or None; ``at`` is when it arrived.
    """

    headers: Sequence[tuple[bytes, bytes]] = field(repr=False)
    body: bytes = field(repr=False)
    token: str | None = field(repr=False)
    at: datetime

    def values(self, name: bytes) -> list[bytes]:
        """Every value of the header ``name``."""
        return [value for key, value in self.headers if key == name]


class Provider(abc.ABC):
    """A sender of webhooks.

    ``settings_type`` reads its own variables from the environment. ``path_token`` says whether
    its URL may end in a token. ``allowed_addresses`` are those it may send from; none: any.
    """

    name: ClassVar[str]
    settings_type: ClassVar[type[BaseSettings]]
    path_token: ClassVar[bool] = False
    allowed_addresses: Networks = ()

    @abc.abstractmethod
    def __init__(self, settings: Any) -> None: ...

    @property
    @abc.abstractmethod
    def configured(self) -> bool:
        """Whether there is anything to verify its webhooks with."""

    @abc.abstractmethod
    def authenticate(self, request: WebhookRequest) -> tuple[str, ...]:
        """Notes about an authentic request (often none), each in words.

        Raises:
            InvalidSignature: the provider did not send it.
            ProviderNotConfigured: nobody can tell.
        """

    def explain(self, request: WebhookRequest) -> str | None:
        """What the owner may have set up wrongly, if that is why ``request`` is not authentic.

        In words for the owner, with what to do, and without a part of any secret. It may cost a
        few milliseconds: it is asked seldom, and only after :meth:`authenticate` has failed.
        """
        return None

    @classmethod
    @abc.abstractmethod
    def event_key(cls, payload: Payload) -> str | None:
        """The provider's own id of this event, or None where it gives none."""

    @classmethod
    def is_test(cls, payload: Payload) -> bool:  # noqa: ARG003
        """Whether a person pressed the provider's test button."""
        return False

    @classmethod
    @abc.abstractmethod
    def read(cls, payload: Payload) -> Event:
        """What the payload says.

        Raises:
            MalformedPayload: it cannot be read; the text says where, and quotes nothing.
        """


def text_of(fields: Payload, *names: str) -> str | None:
    """The first text among the fields ``names``; None where all are absent, null or empty.

    Raises:
        MalformedPayload: the field is there and is no text. It is not converted: a code that
            was written as a number has lost its leading zeros.
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
    """Like :func:`text_of`, for a field that an event makes no sense without."""
    value = text_of(fields, *names)
    if value is None:
        spelled = " or ".join(names)
        raise MalformedPayload(f"{spelled}: missing or empty")
    return value


def unknown(
    provider: str, fields: Payload, at: datetime | None, name: str | None, *, codes: Sequence[str]
) -> UnknownEvent:
    """An event whose name no document mentions, and which can be passed over.

    Raises:
        MalformedPayload: it carries a code (a field of ``codes``): a provider that renames its
            events must not make codes vanish.
    """
    found = next((field for field in codes if fields.get(field)), None)
    if found is not None:
        raise MalformedPayload(f"no document names this event, but it has a {found}")
    return UnknownEvent(provider=provider, at=at, name=name)


def identifier_of(fields: Payload, *names: str) -> str:
    """A required text that names something: printable, and of a length that an index can hold."""
    value = required_text(fields, *names)
    if len(value) > LONGEST_NAME or not value.isprintable():
        spelled = " or ".join(names)
        raise MalformedPayload(f"{spelled}: too long, or with characters that no name has")
    return value


def label_of(fields: Payload, *names: str) -> str | None:
    """A descriptive field (a service, a country, an amount): numbers are taken as text."""
    for name in names:
        value = fields.get(name)
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            return str(value)
        if isinstance(value, str) and 0 < len(value) <= LONGEST_NAME and value.isprintable():
            return value
    return None


def time_of(fields: Payload, *names: str) -> datetime | None:
    """An ISO 8601 time (or Unix seconds) in UTC; None where there is none that can be read.

    The provider's clock orders events and is shown to people, but nothing rests on it so much
    that a code should wait for it.
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
    names = {bool: "a truth value", int: "a number", float: "a number", list: "a list"}
    return names.get(type(value), "an object")
