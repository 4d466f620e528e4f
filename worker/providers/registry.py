"""The registry of provider APIs: each subpackage has a module ``api`` that defines one."""

from __future__ import annotations

import functools
import importlib
import inspect
import pkgutil
from collections.abc import Mapping
from types import MappingProxyType

import worker.providers
from worker.providers.base import ProviderApi


@functools.cache
def provider_apis() -> Mapping[str, type[ProviderApi]]:
    """Return every provider's API class by the provider's name, in alphabetical order."""
    found: dict[str, type[ProviderApi]] = {}
    for package in pkgutil.iter_modules(worker.providers.__path__, "worker.providers."):
        if not package.ispkg:
            continue
        for member in vars(importlib.import_module(f"{package.name}.api")).values():
            if (
                isinstance(member, type)
                and issubclass(member, ProviderApi)
                and not inspect.isabstract(member)
            ):
                found[member.name] = member
    return MappingProxyType(dict(sorted(found.items())))
