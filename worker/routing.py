"""Which destinations are told what."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from receiver.events import BalanceLow, SmsReceived

_TOLD_BY_DEFAULT = frozenset({SmsReceived.type, BalanceLow.type})


@dataclass(frozen=True, slots=True)
class Routing:
    """Where events go: without routes, codes and low balances to every destination."""

    destinations: Collection[str]

    def of(self, event_type: str) -> list[str]:
        """The names of the destinations that are told of events of this type."""
        return sorted(self.destinations) if event_type in _TOLD_BY_DEFAULT else []

    def operators(self) -> list[str]:
        """The destinations that hear of what needs a person."""
        return sorted(self.destinations)
