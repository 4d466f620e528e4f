"""Finds the providers: whichever module of this package defines one."""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache

import receiver.providers
from receiver.providers.base import Provider


@cache
def registry() -> dict[str, type[Provider]]:
    """Every provider by its name."""
    for module in pkgutil.iter_modules(receiver.providers.__path__, "receiver.providers."):
        importlib.import_module(module.name)
    return {provider.name: provider for provider in Provider.__subclasses__()}
