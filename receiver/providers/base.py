"""The interface of a webhook provider, and helpers to read its payloads.

To add a provider, write a module beside this one with a :class:`Provider` subclass. It
authenticates requests (:meth:`Provider.authenticate`), returns an event's idempotency key
(:meth:`Provider.event_key`), and parses its payload (:meth:`Provider.read`). Providers do no I/O.
The worker calls only the class methods, so it needs no webhook secret.
"""

from __future__ import annotations

import abc
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, ClassVar

from pydantic_settings import BaseSettings

from receiver.errors import MalformedPayload, ProviderNotConfigured
from receiver.events import Event, UnknownEvent
from receiver.providers.otp_text import find_code
from receiver.providers.payload import Payload, fields_of, is_absent
from receiver.providers.plain_text import plain_text
from receiver.providers.times import ReadTime, read_time
from receiver.setting_types import Networks

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
    def order_of(cls, payload: Payload) -> str | None:  # noqa: ARG003
        """The order that a payload names which cannot be read otherwise, or None."""
        return None

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


def unknown(
    provider: str, fields: Payload, at: ReadTime | None, name: str | None, *, codes: Sequence[str]
) -> UnknownEvent:
    """Return the event for an undocumented name; it has no effects.

    Raises:
        MalformedPayload: it has a code (one of the fields ``codes``). If a provider renames its
            events, codes must not be dropped silently.
    """
    code_field = next((each for each in codes if not is_absent(fields.get(each))), None)
    if code_field is not None:
        raise MalformedPayload(f"undocumented event with a code in {code_field}")
    return UnknownEvent(provider=provider, name=name, **when(at))


def text_of(fields: Payload, *names: str) -> str | None:
    """Return the first text among the fields ``names``, numbers as text; None if all are absent.

    The text is plain (see :func:`receiver.providers.plain_text.plain_text`) and trimmed.

    Raises:
        MalformedPayload: the field is an object, a list or a boolean.
    """
    for name in names:
        value = fields.get(name)
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            return _number_text(value)
        if isinstance(value, str):
            text = plain_text(value).strip()
            if not is_absent(text):
                return text
        elif value is not None:
            raise MalformedPayload(f"{name}: expected text, found {_kind(value)}")
    return None


def identifier_of(fields: Payload, *names: str) -> str:
    """Return a mandatory identifier: on one line, and short enough for a database index.

    Raises:
        MalformedPayload: it is absent, too long, or not printable.
    """
    value = text_of(fields, *names)
    if value is None:
        raise MalformedPayload(f"{names[0]}: missing or empty")
    if len(value) > MAX_NAME_LENGTH or not value.isprintable():
        raise MalformedPayload(f"{names[0]}: over {MAX_NAME_LENGTH} characters, or not printable")
    return value


def order_in(payload: Payload, *names: str) -> str | None:
    """The order's id among the fields ``names``, if there is a usable one."""
    try:
        return identifier_of(fields_of(payload), *names)
    except MalformedPayload:
        return None


def label_of(fields: Payload, *names: str) -> str | None:
    """Return a descriptive field (service, country, amount), numbers as text.

    Of an object, the part that names it is taken. None if the field is absent, too long or not
    printable: no code should wait for a description.
    """
    for name in names:
        value = fields.get(name)
        if isinstance(value, Mapping):
            value = next((value[part] for part in _NAMING_PARTS if value.get(part)), None)
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            return _number_text(value)
        text = plain_text(value).strip() if isinstance(value, str) else ""
        if not is_absent(text) and len(text) <= MAX_NAME_LENGTH and text.isprintable():
            return text
    return None


def time_of(fields: Payload, *names: str) -> ReadTime | None:
    """Return the first time among the fields ``names`` that can be read, in any usual spelling.

    The provider's time orders events and is shown to people. It is not important enough to
    reject a code for it.
    """
    return next(filter(None, (read_time(fields.get(name)) for name in names)), None)


@dataclass(frozen=True, slots=True)
class ReadCode:
    """The code that a message reports.

    Attributes:
        code: None if no code was recognised.
        extracted: it was read from the text, and surely so.
        may_lack_zeros: it came as a number, which has no leading zeros, and no text shows it.
    """

    code: str | None = field(repr=False)
    extracted: bool = False
    may_lack_zeros: bool = False


def code_of(
    fields: Payload, text: str | None, *names: str, other_numbers: Iterable[str]
) -> ReadCode:
    """Return the code of the fields ``names``, or else the one that ``text`` surely tells.

    A code that came as a number is completed from the text if that shows it with leading zeros.

    Raises:
        MalformedPayload: the code is too long or not printable.
    """
    name = next((each for each in names if text_of(fields, each) is not None), None)
    if name is None:
        found = find_code(text or "", other_numbers=other_numbers)
        return ReadCode(found.code, extracted=True) if found and found.sure else ReadCode(None)
    code = normal_code(identifier_of(fields, name))
    if isinstance(fields[name], str):
        return ReadCode(code)
    shown = re.search(rf"(?<!\d)0*{re.escape(code)}(?!\d)", plain_text(text or ""))
    return ReadCode(shown.group()) if shown else ReadCode(code, may_lack_zeros=True)


def normal_code(code: str) -> str:
    """A code as it is delivered: the sender's spelling, in plain characters on one line."""
    return " ".join(plain_text(code).split())


def comparable_code(code: str) -> str:
    """A code for comparing: without separators, invisible characters and case."""
    return _SEPARATORS.sub("", plain_text(code)).upper()


def event_name(name: str | None) -> str:
    """An event's name for comparing: in any case, with any separator between its words."""
    return _NAME_SEPARATORS.sub(".", (name or "").strip()).casefold()


def when(at: ReadTime | None) -> dict[str, Any]:
    """The fields of an event that say when it happened."""
    return {} if at is None else {"at": at.at, "at_certain": at.certain}


def is_yes(value: object) -> bool:
    """Whether a flag is set, in any spelling: true, "true", 1, "yes"."""
    return str(value).strip().casefold() in {"true", "1", "1.0", "yes", "on"}


_SEPARATORS = re.compile(r"[\s.\-_·]+")
_NAME_SEPARATORS = re.compile(r"[\s._:/-]+")
_NAMING_PARTS = (
    *("iso", "iso2", "alpha2", "iso_code", "code", "country_code"),
    *("slug", "key", "name", "id"),
)


def _number_text(value: float) -> str:
    return str(int(value)) if value == value // 1 else str(value)


def _kind(value: object) -> str:
    names = {bool: "a boolean", list: "a list"}
    return names.get(type(value), "an object")
