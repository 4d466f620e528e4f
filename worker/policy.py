"""What this installation does about an event: decided from its settings, once for a process."""

from __future__ import annotations

from dataclasses import dataclass

from worker.routing import Routing
from worker.settings import ConfirmationSettings


@dataclass(frozen=True, slots=True)
class Policy:
    """The choices that handling an event depends on.

    ``confirming`` and ``verifying`` are the providers whose orders are confirmed, or whose codes
    are asked back about: those whose API can and whose key is configured.
    """

    confirming: frozenset[str]
    verifying: frozenset[str]
    auto_confirm: ConfirmationSettings
    routing: Routing

    def confirms(self, provider: str, service: str | None) -> bool:
        """Whether an order is to be confirmed once its code is stored."""
        return provider in self.confirming and self.auto_confirm.confirms(service)

    def verifies(self, provider: str) -> bool:
        """Whether nobody is told of a code before the provider has vouched for it."""
        return provider in self.verifying
