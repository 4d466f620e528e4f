"""What providers send us: one module each, found by looking, listed nowhere."""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache

from receiver.providers.base import Provider


@cache
def registry() -> dict[str, type[Provider]]:
    """Every provider by its name."""
    for module in pkgutil.iter_modules(__path__, f"{__name__}."):
        importlib.import_module(module.name)
    return {provider.name: provider for provider in Provider.__subclasses__()}
