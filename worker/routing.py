"""Which destinations are told what."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

from receiver.events import BalanceLow, SmsReceived

_TOLD_BY_DEFAULT = frozenset({SmsReceived.type, BalanceLow.type})


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
class Routing:
    """Where events go: without routes, codes and low balances to every destination."""

    destinations: Collection[str]

    def of(self, subject: Subject) -> list[str]:
        """The names of the destinations that are told of such an event, each once."""
        return sorted(self.destinations) if subject.type in _TOLD_BY_DEFAULT else []

    def operators(self) -> list[str]:
        """The destinations that hear of what needs a person."""
        return sorted(self.destinations)
