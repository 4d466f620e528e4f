"""The interface of every destination: send one notification, or several in one message.

:meth:`Destination.send` returns ``None`` when the remote service has accepted the message, and
raises :class:`DeliveryError` otherwise. That is the whole contract: :mod:`worker.delivery.deliver`
decides on planning, pace, retries, pauses and giving up.

To add a kind, write a module beside this one: the options of its table in the configuration file
(:class:`Options`), how it is made from them, and how it sends.
"""

from __future__ import annotations

import abc
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, ValidationInfo, field_validator

from worker.http.client import HostRefused, HttpClient
from worker.messages.text import Notification, Texts

# Narrower than a shell's rule, so that a secret written in place of a name hardly ever matches.
_VARIABLE = re.compile(r"[A-Z_][A-Z0-9_]{0,63}")


class DeliveryError(Exception):
    """A message that was not delivered, or may not have been.

    Args:
        reason: text for an operator; holds no code, phone number, URL or credential.
        permanent: a retry cannot help.
        retry_after: seconds to pause, if the remote service asked for a pause.
        unknown: the outcome is unknown: the service may have accepted the message.
        message_only: a permanent refusal of this message, not of the destination.
        foreign: something else answered in place of the remote service, such as a proxy with a
            page of its own; such an answer is never permanent.
        failed: if a message has several recipients, those who did not get it, with their
            errors; the other recipients have it.
    """

    def __init__(
        self,
        reason: str,
        *,
        permanent: bool = False,
        retry_after: float | None = None,
        unknown: bool = False,
        message_only: bool = False,
        foreign: bool = False,
        failed: Mapping[str, DeliveryError] | None = None,
    ) -> None:
        super().__init__(reason)
        self.reason = reason
        self.permanent = permanent
        self.retry_after = retry_after
        self.unknown = unknown
        self.message_only = message_only
        self.foreign = foreign
        self.failed = failed or {}


class Options(BaseModel):
    """The options of one kind in a destination's table of the configuration file.

    A field whose name ends in ``_env`` names an environment variable: the file holds no secrets.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    @field_validator("*")
    @classmethod
    def _names_a_variable(cls, value: object, info: ValidationInfo) -> object:
        # The value may be a secret written by mistake: the error must not show it.
        named = (info.field_name or "").endswith("_env")
        if named and isinstance(value, str) and not _VARIABLE.fullmatch(value):
            raise ValueError(
                "the name of a variable (capitals, digits, underscores), not its value"
            )
        return value


@dataclass(frozen=True, slots=True)
class DestinationContext:
    """What a destination needs besides its options."""

    http: HttpClient
    texts: Texts
    environment: Mapping[str, str] = field(repr=False)

    def variable(self, option: str, name: str) -> str:
        """The value of the variable ``name``, which ``option`` names.

        Raises:
            ValueError: it is not set, or empty.
        """
        value = self.environment.get(name, "").strip()
        if not value:
            raise ValueError(f"{option}: the variable {name} is not set")
        return value

    def url(self, option: str, name: str, *, expected: str) -> str:
        """The URL in the variable ``name``.

        Raises:
            ValueError: it is no URL, or its host is not allowed; ``expected`` says what to write.
        """
        url = self.variable(option, name)
        try:
            self.http.admit(url)
        except HostRefused:
            pass
        else:
            return url
        # Raised outside of the handler, so that no traceback leads to the URL.
        raise ValueError(
            f"{option}: the variable {name} must hold {expected}; to use another host, or HTTP"
            " without TLS, add the host to DESTINATION_ALLOWED_HOSTS"
        )


class Destination(abc.ABC):
    """One configured destination.

    Attributes:
        kind: the name of the class in the configuration.
        deadline: the maximum duration of :meth:`send`, in seconds. The lease of a delivery is this
            plus ``worker.outbox.leases.MARGIN``.
        max_batch: the maximum number of notifications in one message.
        max_extra_sends: how many more messages a refused one may lead to, while the notification
            that is the reason is looked for.
        has_plain_text: whether :meth:`send_plain` is defined.
        per_second, burst: its default pace: messages a second (None: no limit), and at once.
        options_type: the options of its table.
        name: unique among the configured destinations.
        recipients: the addresses that get each message, for kinds that have recipients.
    """

    kind: ClassVar[str]
    deadline: ClassVar[float]
    max_batch: ClassVar[int] = 1
    max_extra_sends: ClassVar[int] = 12
    has_plain_text: ClassVar[bool] = False
    per_second: ClassVar[float | None] = None
    burst: ClassVar[int] = 1
    options_type: ClassVar[type[Options]] = Options

    def __init__(self, name: str, texts: Texts | None = None) -> None:
        self.name = name
        self.texts = texts or Texts()
        self.recipients: tuple[str, ...] = ()

    @classmethod
    @abc.abstractmethod
    def make(cls, name: str, options: Any, context: DestinationContext) -> Self:
        """Make the destination that a table of the configuration describes, without any I/O.

        Raises:
            ValueError: an option or variable is wrong; the text begins with the option's name
                and a colon, says what to write, and holds nothing secret.
        """

    @abc.abstractmethod
    def send(
        self, notifications: Sequence[Notification], *, only: Collection[str] | None = None
    ) -> None:
        """Send one message within ``deadline`` seconds. Thread-safe.

        ``notifications`` are at least one and at most ``max_batch``, oldest first; ``only``
        restricts the message to some of ``recipients``.

        Raises:
            DeliveryError: the message was not accepted, or the outcome is unknown.
        """

    def send_plain(
        self, notifications: Sequence[Notification], *, only: Collection[str] | None = None
    ) -> None:
        """Like :meth:`send`, as plain text: after the remote service refused the message.

        By default there is no plainer form.

        Raises:
            DeliveryError: as :meth:`send`.
        """
        raise NotImplementedError
