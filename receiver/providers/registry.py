"""The registry of providers: every module of this package that defines one."""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache

import receiver.providers
from receiver.providers.base import Provider


@cache
def registry() -> dict[str, type[Provider]]:
    """Return every provider's class by the provider's name."""
    for module in pkgutil.iter_modules(receiver.providers.__path__, "receiver.providers."):
        importlib.import_module(module.name)
    return {provider.name: provider for provider in Provider.__subclasses__()}
