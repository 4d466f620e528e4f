"""Finds the kinds of destinations: whichever module of this package defines one."""

from __future__ import annotations

import importlib
import inspect
import pkgutil

import worker.destinations
from worker.destinations.base import Destination


def discover() -> dict[str, type[Destination]]:
    """Every kind of destination in this package, by the word that names it.

    A module becomes a kind by being here: it defines one concrete :class:`Destination`. Modules
    whose names begin with an underscore are helpers.

    Raises:
        RuntimeError: two modules claim the same kind.
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
                raise RuntimeError(f"two destinations are of the kind {found.kind!r}")
            kinds[found.kind] = found
    return kinds
