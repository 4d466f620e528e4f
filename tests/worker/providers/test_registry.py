from __future__ import annotations

from worker.providers.daisysim.api import DaisySIM
from worker.providers.registry import provider_apis
from worker.providers.virtualsms.api import VirtualSMS


def test_providers_are_found_by_themselves() -> None:
    """Every module that defines a provider is found, under the provider's name."""
    assert dict(provider_apis()) == {"daisysim": DaisySIM, "virtualsms": VirtualSMS}
