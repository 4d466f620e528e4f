"""The registry of provider APIs: every module of the subpackages that defines one."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

from receiver import discovery
from worker.providers.base import ProviderApi


@cache
def provider_apis() -> Mapping[str, type[ProviderApi]]:
    """Return every provider's API class by the provider's name, in alphabetical order."""
    return discovery.implementations("worker.providers", ProviderApi, key="name")
