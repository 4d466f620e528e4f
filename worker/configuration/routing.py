"""Routing: which destinations receive which notifications."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from receiver.events import BalanceLow, SmsReceived
from receiver.providers.phone_numbers import normal_number
from receiver.providers.plain_text import plain_text
from worker.messages import masking

# Types delivered where no type is configured: all but the state changes of an order.
DEFAULT_TYPES: Final = frozenset({SmsReceived.type, BalanceLow.type})
_LONGEST_PREFIX: Final = 8
_GLOB: Final = re.compile(r"[*?\[]")
# What people write between the digits of a number; a hyphen in brackets is part of the glob.
_SEPARATORS: Final = re.compile(r"[\s().]|-(?![^\[]*\])")
# The subject's attribute for each key of a route's match in the configuration file.
_SUBJECT_FIELDS: Final[Mapping[str, str]] = {
    "provider": "provider",
    "service": "service",
    "type": "type",
    "country": "country",
    "phone": "phone_number",
    "state": "order_state",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """What a route can match on: an event's type, and what is known of its order.

    ``phone_number`` is in its normal form. The aliases are other names of the service and country.
    """

    type: str
    provider: str
    service: str | None = None
    country: str | None = None
    service_alias: str | None = None
    country_alias: str | None = None
    phone_number: str | None = field(default=None, repr=False)
    order_state: str | None = None


@dataclass(frozen=True, slots=True)
class Match:
    """A condition on a subject. Each key that is present must match.

    A key's patterns are exact strings or globs (``*``, ``?``, ``[seq]``), case-insensitive, and
    one of them must match; a service or country matches under either of its names. Patterns of
    phone numbers may contain separators. A field that is unknown (None or empty) never matches.
    Without the key ``type`` the condition holds only for the default types: a route must ask for
    the state changes of orders. ``description`` is for people, with whole phone numbers masked.
    """

    patterns: Mapping[str, re.Pattern[str]] = field(default_factory=dict, repr=False)
    description: str = "anything"

    @classmethod
    def of(cls, patterns: Mapping[str, Sequence[str]]) -> Match:
        """Compile a condition from patterns by key.

        Raises:
            KeyError: unknown key.
        """
        described = ", ".join(_describe(key, any_of) for key, any_of in patterns.items())
        compiled = {
            _SUBJECT_FIELDS[key]: _any_of(map(_phone_pattern, any_of) if key == "phone" else any_of)
            for key, any_of in patterns.items()
        }
        return cls(compiled, described or cls().description)

    def fits(self, subject: Subject) -> bool:
        """Whether the condition holds."""
        if "type" not in self.patterns and subject.type not in DEFAULT_TYPES:
            return False
        return all(
            any(pattern.fullmatch(value) for value in _values(subject, name))
            for name, pattern in self.patterns.items()
        )


@dataclass(frozen=True, slots=True)
class Route:
    """Destinations for the subjects that match; ``stop`` skips the later routes.

    ``key`` is its path in the configuration file, as ``routes[1]``.
    """

    match: Match
    to: tuple[str, ...]
    stop: bool = False
    key: str | None = None


@dataclass(frozen=True, slots=True)
class Routing:
    """The routes; without them every destination receives codes and low balances.

    ``operator_destinations`` receive notices to the operators; None means every destination.
    """

    destinations: Collection[str]
    routes: tuple[Route, ...] | None = None
    operator_destinations: tuple[str, ...] | None = None

    def of(self, subject: Subject) -> list[str]:
        """The names of the destinations for such an event, sorted and without duplicates."""
        if self.routes is None:
            return sorted(self.destinations) if subject.type in DEFAULT_TYPES else []
        return sorted({name for route in self.matching(subject) for name in route.to})

    def matching(self, subject: Subject) -> list[Route]:
        """The routes that apply to such an event, in order."""
        applied: list[Route] = []
        for route in self.routes or ():
            if route.match.fits(subject):
                applied.append(route)
                if route.stop:
                    break
        return applied

    def operators(self) -> list[str]:
        """The names of the destinations that receive notices to the operators, sorted."""
        if self.operator_destinations is None:
            return sorted(self.destinations)
        return sorted(self.operator_destinations)


def _describe(key: str, patterns: Iterable[str]) -> str:
    # The prefix of a phone number is a country or a network; a whole number is confidential.
    is_phone = key == "phone"
    shown = (
        masking.phone(pattern) if is_phone and len(pattern) > _LONGEST_PREFIX else pattern
        for pattern in patterns
    )
    return f"{key} {' or '.join(shown)}"


def _values(subject: Subject, name: str) -> Iterator[str]:
    """The field ``name``, and the other name that it may have."""
    for field_name in (name, f"{name}_alias"):
        yield getattr(subject, field_name, None) or ""


def _phone_pattern(pattern: str) -> str:
    """A pattern for numbers in their normal form; a number without a glob is brought to it."""
    written = plain_text(pattern).strip()
    if not _GLOB.search(written):
        return normal_number(written)
    compact = _SEPARATORS.sub("", written)
    return f"+{compact[2:]}" if compact.startswith("00") else compact


def _any_of(patterns: Iterable[str]) -> re.Pattern[str]:
    # An unknown field is matched as the empty string; the lookahead lets no pattern match that.
    either = "|".join(fnmatch.translate(pattern) for pattern in patterns)
    return re.compile(f"(?=.)(?:{either})", re.IGNORECASE | re.DOTALL)
