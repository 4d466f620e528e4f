"""What this installation does about an event: decided from its settings, once for a process."""

from __future__ import annotations

from dataclasses import dataclass

from worker.configuration.routing import Routing

# Among the services whose orders are confirmed: all of them.
EVERY_SERVICE = "*"


@dataclass(frozen=True, slots=True)
class EventPolicy:
    """The choices that handling an event depends on.

    Attributes:
        confirming: the providers whose orders are confirmed: those whose API has a call for it
            and whose key is configured.
        verifying: the providers that are asked about a code before it is delivered, likewise.
        confirmed_services: the services whose orders are confirmed, or :data:`EVERY_SERVICE`.
        routing: which destinations get what.
    """

    confirming: frozenset[str]
    verifying: frozenset[str]
    confirmed_services: frozenset[str]
    routing: Routing

    def confirms(self, provider: str, service: str | None) -> bool:
        """Whether an order is to be confirmed once its code is stored."""
        if provider not in self.confirming:
            return False
        return EVERY_SERVICE in self.confirmed_services or service in self.confirmed_services

    def verifies(self, provider: str) -> bool:
        """Whether a code is delivered only after the provider has verified it."""
        return provider in self.verifying
