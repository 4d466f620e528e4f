"""What may stand in the configuration file, table by table."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import time
from pathlib import Path
from typing import Annotated, Any, Final, Self
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)

from receiver.events import Event
from receiver.providers.registry import registry
from worker.configuration.destination_policy import DestinationPolicy, OnUnknown, QuietHours, Reveal
from worker.configuration.suggestions import suggestion
from worker.destinations.base import Destination
from worker.schema.states import ORDER_STATES

# Usable on a command line, in a log line and as a label.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_CLOCK = re.compile(r"([01][0-9]|2[0-3]):[0-5][0-9]")


def _name(value: str) -> str:
    if not _NAME.fullmatch(value):
        raise ValueError("letters, digits, dots, dashes and underscores, 64 at most")
    return value


def _clock(value: object) -> object:
    if isinstance(value, time):
        return value
    if not isinstance(value, str) or not _CLOCK.fullmatch(value):
        raise ValueError("a time of day as HH:MM")
    return time.fromisoformat(value)


def _zone(value: object) -> object:
    try:
        return ZoneInfo(str(value))
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ValueError("a time zone like Europe/London") from None


def _listed(value: object) -> object:
    return [value] if isinstance(value, str) else value


Name = Annotated[str, AfterValidator(_name)]
Clock = Annotated[time, BeforeValidator(_clock)]
Zone = Annotated[ZoneInfo, BeforeValidator(_zone)]
Patterns = Annotated[
    list[Annotated[str, Field(min_length=1)]], BeforeValidator(_listed), Field(min_length=1)
]


def _known(word: str) -> list[str]:
    match word:
        case "provider":
            return sorted(registry())
        case "type":
            return sorted(set(_types(Event)))
        case _:
            return list(ORDER_STATES)


def _types(family: type[Event]) -> Iterable[str]:
    for member in family.__subclasses__():
        if "type" in vars(member):
            yield member.type
        yield from _types(member)


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True, strict=True)


class QuietHoursTable(_Table):
    """``{ from = "22:00", to = "07:00", zone = "Europe/London" }``."""

    model_config = ConfigDict(arbitrary_types_allowed=True)

    start: Clock = Field(alias="from")
    end: Clock = Field(alias="to")
    zone: Zone = ZoneInfo("UTC")

    @model_validator(mode="after")
    def _ends(self) -> Self:
        if self.start == self.end:
            raise ValueError("an end that is not the start")
        return self


class DestinationTable(_Table):
    """One of ``[[destinations]]``: what is common to all kinds; the kind reads the rest."""

    model_config = ConfigDict(extra="allow")

    name: Name
    kind: str
    reveal: Reveal = "full"
    per_second: float | None = Field(default=None, gt=0, le=1000)
    burst: int | None = Field(default=None, ge=1, le=1000)
    coalesce: bool = True
    on_unknown: OnUnknown = "repeat"
    fallback: str | None = None
    quiet_hours: QuietHoursTable | None = None
    templates: Annotated[Path | None, Field(strict=False)] = None

    def policy(self, kind: type[Destination]) -> DestinationPolicy:
        """Its choices, those of its kind where it made none."""
        quiet = self.quiet_hours
        return DestinationPolicy(
            name=self.name,
            kind=self.kind,
            reveal=self.reveal,
            per_second=kind.per_second if self.per_second is None else self.per_second,
            burst=kind.burst if self.burst is None else self.burst,
            coalesce=self.coalesce,
            on_unknown=self.on_unknown,
            fallback=self.fallback,
            quiet_hours=None if quiet is None else QuietHours(quiet.start, quiet.end, quiet.zone),
        )


class MatchTable(_Table):
    """What a route looks at; each a text, a glob, or a list of them."""

    provider: Patterns | None = None
    service: Patterns | None = None
    type: Patterns | None = None
    country: Patterns | None = None
    phone: Patterns | None = None
    state: Patterns | None = None

    @field_validator("provider", "type", "state")
    @classmethod
    def _can_fit(cls, patterns: Sequence[str] | None, info: ValidationInfo) -> object:
        """Where all that there is is known, a pattern that fits none of it was mistyped."""
        known = _known(info.field_name or "")
        for pattern in patterns or ():
            if not any(fnmatch.fnmatchcase(word, pattern.lower()) for word in known):
                raise ValueError(f"what there is, not {pattern!r}{suggestion(pattern, known)}")
        return patterns

    def patterns(self) -> dict[str, list[str]]:
        """The patterns of each word that was named."""
        named: dict[str, Any] = self.model_dump(exclude_none=True)
        return named


class RouteTable(_Table):
    """One of ``[[routes]]``."""

    match: MatchTable = MatchTable()
    to: list[str] = Field(min_length=1)
    stop: bool = False


class OperatorsTable(_Table):
    """``[operators]``: who hears of quarantine, dead destinations and failed events."""

    to: list[str]


class File(_Table):
    """The whole file."""

    destinations: list[DestinationTable] = []
    routes: list[RouteTable] | None = None
    operators: OperatorsTable | None = None

    @field_validator("destinations", "routes", mode="before")
    @classmethod
    def _are_many(cls, value: object, info: ValidationInfo) -> object:
        if isinstance(value, dict):
            raise ValueError(f"double brackets around each: [[{info.field_name}]]")  # noqa: TRY004
        return value


# What a table's keys may be, by the key that it stands under.
TABLES: Final[Mapping[str | int, type[BaseModel]]] = {
    "destinations": DestinationTable,
    "quiet_hours": QuietHoursTable,
    "routes": RouteTable,
    "match": MatchTable,
    "operators": OperatorsTable,
}
