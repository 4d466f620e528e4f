"""Finds what the modules of a package define, so that a new module needs no entry in a list."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Mapping
from typing import Any


def module_names(package: str) -> list[str]:
    """The full names of a package's modules, subpackages included; ``_private`` ones are not."""
    path = importlib.import_module(package).__path__
    names = (module.name for module in pkgutil.walk_packages(path, f"{package}."))
    return [name for name in names if "._" not in name]


def implementations(package: str, base: type, *, key: str) -> Mapping[str, Any]:
    """The concrete subclasses of ``base`` that a package's modules define, sorted by ``key``.

    ``key`` is the attribute of the class that is its name in settings, tables and commands.

    Raises:
        RuntimeError: two classes have the same name.
    """
    found: dict[str, Any] = {}
    for module in module_names(package):
        for member in vars(importlib.import_module(module)).values():
            is_class = isinstance(member, type) and issubclass(member, base)
            # An imported class belongs to the module that defines it.
            if not is_class or member.__module__ != module or inspect.isabstract(member):
                continue
            name = getattr(member, key)
            if name in found:
                raise RuntimeError(f"two classes of {package} have the {key} {name!r}")
            found[name] = member
    return dict(sorted(found.items()))
