"""The registry of the kinds of destinations: every module of this package that defines one."""

from __future__ import annotations

from collections.abc import Mapping

from receiver import discovery
from worker.destinations.base import Destination


def discover() -> Mapping[str, type[Destination]]:
    """Return every kind of destination by its name in the configuration.

    Raises:
        RuntimeError: two modules define the same kind.
    """
    return discovery.implementations("worker.destinations", Destination, key="kind")
