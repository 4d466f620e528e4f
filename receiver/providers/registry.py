"""The registry of providers: every module of this package that defines one."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

from receiver import discovery
from receiver.providers.base import Provider


@cache
def registry() -> Mapping[str, type[Provider]]:
    """Return every provider's class by the provider's name."""
    return discovery.implementations("receiver.providers", Provider, key="name")
