"""Which destinations are told what."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from receiver.events import BalanceLow, SmsReceived
from worker.messages import masking

# What is told where nothing else was chosen: everything but the steps of an order.
TOLD_BY_DEFAULT: Final = frozenset({SmsReceived.type, BalanceLow.type})
_LONGEST_PREFIX: Final = 8
# What a route may look at, by the word that the configuration file has for it.
MATCHED: Final[Mapping[str, str]] = {
    "provider": "provider",
    "service": "service",
    "type": "type",
    "country": "country",
    "phone": "phone_number",
    "state": "order_state",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """What a route may look at: an event's type, and what is known of its order."""

    type: str
    provider: str
    service: str | None = None
    country: str | None = None
    phone_number: str | None = field(default=None, repr=False)
    order_state: str | None = None


@dataclass(frozen=True, slots=True)
class Match:
    """A condition on a subject: each word of :data:`MATCHED` that is named must fit.

    A word's patterns are exact texts or globs (``*``, ``?``, ``[seq]``), in any case; one of them
    must fit, and what is not known of a subject fits none. A condition that names no type means
    what is told by default: an order's steps are told only where they are asked for. ``words``
    says it to a person, with whole numbers masked.
    """

    patterns: Mapping[str, re.Pattern[str]] = field(default_factory=dict, repr=False)
    words: str = "anything"

    @classmethod
    def of(cls, words: Mapping[str, Sequence[str]]) -> Match:
        """A condition from patterns by word.

        Raises:
            KeyError: no such word.
        """
        said = ", ".join(_said(word, any_of) for word, any_of in words.items())
        compiled = {MATCHED[word]: _any_of(patterns) for word, patterns in words.items()}
        return cls(compiled, said or cls().words)

    def fits(self, subject: Subject) -> bool:
        """Whether the condition holds."""
        if "type" not in self.patterns and subject.type not in TOLD_BY_DEFAULT:
            return False
        return all(
            pattern.fullmatch(getattr(subject, name) or "") is not None
            for name, pattern in self.patterns.items()
        )


@dataclass(frozen=True, slots=True)
class Route:
    """Destinations for what fits; with ``stop``, no later route is looked at.

    ``line`` is where it stands in the configuration file.
    """

    match: Match
    to: tuple[str, ...]
    stop: bool = False
    line: int | None = None


@dataclass(frozen=True, slots=True)
class Routing:
    """Where events go: by routes, or without them codes and low balances to every destination."""

    destinations: Collection[str]
    routes: tuple[Route, ...] | None = None
    told_of_trouble: tuple[str, ...] | None = None

    def of(self, subject: Subject) -> list[str]:
        """The names of the destinations that are told of such an event, each once."""
        if self.routes is None:
            return sorted(self.destinations) if subject.type in TOLD_BY_DEFAULT else []
        return sorted({name for route in self.matching(subject) for name in route.to})

    def matching(self, subject: Subject) -> list[Route]:
        """The routes that such an event takes, in their order."""
        taken: list[Route] = []
        for route in self.routes or ():
            if route.match.fits(subject):
                taken.append(route)
                if route.stop:
                    break
        return taken

    def operators(self) -> list[str]:
        """The destinations that hear of what needs a person."""
        told = self.destinations if self.told_of_trouble is None else self.told_of_trouble
        return sorted(told)


def _said(word: str, patterns: Iterable[str]) -> str:
    # The beginning of a number is a country or a network; a whole one is a secret.
    masked = word == "phone"
    shown = (
        masking.phone(pattern) if masked and len(pattern) > _LONGEST_PREFIX else pattern
        for pattern in patterns
    )
    return f"{word} {' or '.join(shown)}"


def _any_of(patterns: Iterable[str]) -> re.Pattern[str]:
    # An empty text stands for what is not known; no pattern is meant to fit it.
    either = "|".join(fnmatch.translate(pattern) for pattern in patterns)
    return re.compile(f"(?=.)(?:{either})", re.IGNORECASE | re.DOTALL)
