from __future__ import annotations

from worker.providers.daisysim.api import DaisySIM
from worker.providers.registry import provider_apis
from worker.providers.virtualsms.api import VirtualSMS


def test_all_providers_are_found() -> None:
    """Every package with an API is in the registry under the provider's name."""
    assert dict(provider_apis()) == {"daisysim": DaisySIM, "virtualsms": VirtualSMS}
