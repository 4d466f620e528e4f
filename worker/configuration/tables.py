"""The tables of the configuration file.

Messages of ``ValueError`` complete the sentence "KEY: must be …"; those of
``PydanticCustomError`` are used as they are.
"""

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
from pydantic_core import PydanticCustomError

from receiver.events import Event
from receiver.providers.registry import registry
from worker.configuration.destination_policy import DestinationPolicy, OnUnknown, QuietHours, Reveal
from worker.configuration.suggestions import suggestion
from worker.destinations.base import Destination
from worker.schema.states import ORDER_STATES

# Usable on a command line, in a log line and as a metric label.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_CLOCK = re.compile(r"([01][0-9]|2[0-3]):[0-5][0-9]")


def _name(value: str) -> str:
    if not _NAME.fullmatch(value):
        raise ValueError(
            "1 to 64 letters, digits, dots, dashes or underscores, starting with a letter or digit"
        )
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
        raise ValueError("a time zone such as Europe/London") from None


def _as_list(value: object) -> object:
    return [value] if isinstance(value, str) else value


Name = Annotated[str, AfterValidator(_name)]
Clock = Annotated[time, BeforeValidator(_clock)]
Zone = Annotated[ZoneInfo, BeforeValidator(_zone)]
Patterns = Annotated[
    list[Annotated[str, Field(min_length=1)]], BeforeValidator(_as_list), Field(min_length=1)
]


def _known_values(key: str) -> list[str]:
    match key:
        case "provider":
            return sorted(registry())
        case "type":
            return sorted(set(_event_types(Event)))
        case _:
            return list(ORDER_STATES)


def _event_types(base: type[Event]) -> Iterable[str]:
    for event in base.__subclasses__():
        if "type" in vars(event):
            yield event.type
        yield from _event_types(event)


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True, strict=True)


class QuietHoursTable(_Table):
    """``{ from = "22:00", to = "07:00", zone = "Europe/London" }``."""

    model_config = ConfigDict(arbitrary_types_allowed=True)

    start: Clock = Field(alias="from")
    end: Clock = Field(alias="to")
    zone: Zone = ZoneInfo("UTC")

    @model_validator(mode="after")
    def _check_not_empty(self) -> Self:
        if self.start == self.end:
            raise PydanticCustomError("empty_quiet_hours", "'from' and 'to' must differ")
        return self


class DestinationTable(_Table):
    """One of ``[[destinations]]``: the keys common to all kinds; the kind reads the others."""

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
        """The destination's policy; ``kind`` supplies the defaults for its pace."""
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
    """What a route matches on: each key is a string, a glob, or a list of them."""

    provider: Patterns | None = None
    service: Patterns | None = None
    type: Patterns | None = None
    country: Patterns | None = None
    phone: Patterns | None = None
    state: Patterns | None = None

    @field_validator("provider", "type", "state")
    @classmethod
    def _check_matches_something(
        cls, patterns: Sequence[str] | None, info: ValidationInfo
    ) -> object:
        """The possible values of these keys are known: a pattern that matches none is a typo."""
        known = _known_values(info.field_name or "")
        for pattern in patterns or ():
            if not any(fnmatch.fnmatchcase(value, pattern.lower()) for value in known):
                raise PydanticCustomError(
                    "unknown_value",
                    "unknown value {value}",
                    {"value": f"{pattern!r}{suggestion(pattern, known)}"},
                )
        return patterns

    def patterns(self) -> dict[str, list[str]]:
        """The patterns by key, for the keys that are present."""
        present: dict[str, Any] = self.model_dump(exclude_none=True)
        return present


class RouteTable(_Table):
    """One of ``[[routes]]``."""

    match: MatchTable = MatchTable()
    to: list[str] = Field(min_length=1)
    stop: bool = False


class OperatorsTable(_Table):
    """``[operators]``: which destinations receive notices that need an operator."""

    to: list[str]


class File(_Table):
    """The whole file."""

    destinations: list[DestinationTable] = []
    routes: list[RouteTable] | None = None
    operators: OperatorsTable | None = None

    @field_validator("destinations", "routes", mode="before")
    @classmethod
    def _check_is_list(cls, value: object, info: ValidationInfo) -> object:
        if isinstance(value, dict):
            raise ValueError(f"a list: write each as [[{info.field_name}]]")  # noqa: TRY004
        return value


# The model of each table, by the key that holds it.
TABLES: Final[Mapping[str | int, type[BaseModel]]] = {
    "destinations": DestinationTable,
    "quiet_hours": QuietHoursTable,
    "routes": RouteTable,
    "match": MatchTable,
    "operators": OperatorsTable,
}
