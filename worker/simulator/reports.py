"""How an account lets others know: its owner of events, and waiting calls of changes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from worker.simulator.signed_webhooks import Facts

# Tells the account's owner: the event's type, and what it is about.
Tell = Callable[[str, Facts], None]


def tell_nobody(_: str, __: Facts) -> None:
    """For an account whose owner has not asked for webhooks."""


class Watchers:
    """Who is to be called, in whatever thread, when something changes."""

    def __init__(self) -> None:
        self._watchers: defaultdict[str, list[Callable[[], object]]] = defaultdict(list)

    @contextmanager
    def watching(self, name: str, changed: Callable[[], object]) -> Iterator[None]:
        """Have ``changed`` called whenever ``name`` changes."""
        watchers = self._watchers[name]
        watchers.append(changed)
        try:
            yield
        finally:
            watchers.remove(changed)

    def changed(self, name: str) -> None:
        """Call whoever watches ``name``."""
        for changed in list(self._watchers.get(name, ())):
            changed()
