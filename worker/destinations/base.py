"""What every destination is: something that can be told one notification, or some together.

A destination returns ``None`` from :meth:`Destination.send` when its far side has taken the
message, and raises :class:`DeliveryError` otherwise. That is the whole contract: planning,
pacing, retrying, pausing and giving up are decided by :mod:`worker.delivery.deliver`.

To add a kind, write a module beside this one: what its table in the configuration file may say
(:class:`Options`), how it is made of that, and how it sends.
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

# Narrower than what a shell takes, so that what such a variable holds is hardly ever one.
_VARIABLE = re.compile(r"[A-Z_][A-Z0-9_]{0,63}")


class DeliveryError(Exception):
    """A notification that was not, or perhaps not, delivered.

    Args:
        reason: words for an operator; holds no code, phone number, URL or credential.
        permanent: trying again cannot help.
        retry_after: seconds the far side asked us to stay away, if it did.
        unknown: the far side may have taken it (the answer never came).
        of_message: a permanent refusal that speaks of this message, not of the destination.
        failed: where a message has several recipients, those who did not get it, each with an
            error of its own; everybody else has it.
    """

    def __init__(
        self,
        reason: str,
        *,
        permanent: bool = False,
        retry_after: float | None = None,
        unknown: bool = False,
        of_message: bool = False,
        failed: Mapping[str, DeliveryError] | None = None,
    ) -> None:
        super().__init__(reason)
        self.reason = reason
        self.permanent = permanent
        self.retry_after = retry_after
        self.unknown = unknown
        self.of_message = of_message
        self.failed = failed or {}


class Options(BaseModel):
    """What a destination's table in the configuration file may say about its kind.

    A field whose name ends in ``_env`` names a variable of the environment: nothing secret is
    ever in the file.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    @field_validator("*")
    @classmethod
    def _names_a_variable(cls, value: object, info: ValidationInfo) -> object:
        # Whoever writes the secret itself here must not find it in a log.
        named = (info.field_name or "").endswith("_env")
        if named and isinstance(value, str) and not _VARIABLE.fullmatch(value):
            raise ValueError(
                "the name of a variable (capitals, digits, underscores), not what it holds"
            )
        return value


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a destination is made with besides its options."""

    http: HttpClient
    texts: Texts
    environment: Mapping[str, str] = field(repr=False)

    def variable(self, option: str, name: str) -> str:
        """What the variable ``name``, which the option names, holds.

        Raises:
            ValueError: it holds nothing.
        """
        value = self.environment.get(name, "").strip()
        if not value:
            raise ValueError(f"{option}: wants the variable {name} to be set")
        return value

    def url(self, option: str, name: str, *, wants: str) -> str:
        """The URL in the variable ``name``, if it is one that may be asked.

        Raises:
            ValueError: it is none; ``wants`` says what would be one.
        """
        url = self.variable(option, name)
        try:
            self.http.admit(url)
        except HostRefused:
            pass
        else:
            return url
        # Raised out here so that no traceback leads to the URL.
        raise ValueError(
            f"{option}: the variable {name} wants {wants}; any other host, and one asked"
            " without TLS, only if DESTINATION_ALLOWED_HOSTS names it"
        )


class Destination(abc.ABC):
    """One configured place that people read.

    Attributes:
        kind: the word that names the class in a configuration.
        deadline: the longest that :meth:`send` may take, in seconds.
        most_together: how many notifications one message can tell.
        per_second, burst: its usual pace: messages in a second, None for no limit, and at once.
        options_type: what its table may say.
        name: unique among the configured destinations.
        recipients: who gets each message, where that is more than the destination itself.
    """

    kind: ClassVar[str]
    deadline: ClassVar[float]
    most_together: ClassVar[int] = 1
    per_second: ClassVar[float | None] = None
    burst: ClassVar[int] = 1
    options_type: ClassVar[type[Options]] = Options

    def __init__(self, name: str, texts: Texts | None = None) -> None:
        self.name = name
        self.texts = texts or Texts()
        self.recipients: tuple[str, ...] = ()

    @classmethod
    @abc.abstractmethod
    def make(cls, name: str, options: Any, surroundings: Surroundings) -> Self:
        """The destination that a table of the configuration describes; nothing is contacted.

        Raises:
            ValueError: it cannot work; the text says which field or variable wants what, and
                holds nothing secret.
        """

    @abc.abstractmethod
    def send(
        self, notifications: Sequence[Notification], *, only: Collection[str] | None = None
    ) -> None:
        """Tell it in one message, within ``deadline`` seconds; from several threads at once.

        ``notifications`` are at least one and at most ``most_together``, oldest first; ``only``
        are those of ``recipients`` who are to be told, where not all are.

        Raises:
            DeliveryError: it was not taken, or nobody can know.
        """
