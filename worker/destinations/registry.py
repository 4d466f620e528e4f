"""Discovers the kinds of destinations among the modules of this package."""

from __future__ import annotations

import importlib
import inspect
import pkgutil

import worker.destinations
from worker.destinations.base import Destination


def discover() -> dict[str, type[Destination]]:
    """Every kind of destination, by its name in the configuration.

    Each module of this package that defines a concrete :class:`Destination` is a kind. Modules
    whose names begin with an underscore are helpers.

    Raises:
        RuntimeError: two modules define the same kind.
    """
    kinds: dict[str, type[Destination]] = {}
    for module_info in pkgutil.iter_modules(worker.destinations.__path__):
        if module_info.ispkg or module_info.name.startswith("_"):
            continue
        module = importlib.import_module(f"worker.destinations.{module_info.name}")
        for _, found in inspect.getmembers(module, inspect.isclass):
            # An imported class belongs to the module that defines it.
            if found.__module__ != module.__name__ or not issubclass(found, Destination):
                continue
            if inspect.isabstract(found):
                continue
            if found.kind in kinds:
                raise RuntimeError(f"two modules define the destination kind {found.kind!r}")
            kinds[found.kind] = found
    return kinds
