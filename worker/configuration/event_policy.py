"""Which orders are confirmed, which codes are verified, and where notifications go."""

from __future__ import annotations

import fnmatch
from dataclasses import dataclass

from worker.configuration.routing import Routing

# In `confirmed_services`: confirm orders of every service.
EVERY_SERVICE = "*"


def matches_service(pattern: str, service: str | None) -> bool:
    """Whether a service is meant by one of the confirmed services."""
    return bool(service) and fnmatch.fnmatchcase((service or "").lower(), pattern)


@dataclass(frozen=True, slots=True)
class EventPolicy:
    """The settings that event handling depends on, read once per process.

    Attributes:
        confirming: providers whose orders are confirmed: the API can do it and has a key.
        verifying: providers that verify a code before it is delivered, likewise.
        confirmed_services: services whose orders are confirmed, as names or globs in lower case, or
            :data:`EVERY_SERVICE`.
        routing: which destinations receive which notifications.
        asking: providers whose API can be asked about one order.
        full_reveal: destinations that may receive whole codes and texts.
    """

    confirming: frozenset[str]
    verifying: frozenset[str]
    confirmed_services: frozenset[str]
    routing: Routing
    asking: frozenset[str] = frozenset()
    full_reveal: frozenset[str] = frozenset()

    def confirms(self, provider: str, *services: str | None) -> bool:
        """Whether an order is confirmed once its code is stored; ``services`` are all its names."""
        if provider not in self.confirming:
            return False
        return EVERY_SERVICE in self.confirmed_services or any(
            matches_service(pattern, service)
            for pattern in self.confirmed_services
            for service in services
        )
