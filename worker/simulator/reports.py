"""How an account reports changes: events to its owner, and callbacks to waiting API calls."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from worker.simulator.signed_webhooks import EventDetails

# Reports an event to the account's owner: the event's type, and its details.
ReportEvent = Callable[[str, EventDetails], None]


def discard_event(_: str, __: EventDetails) -> None:
    """Report nothing: for an account without webhooks."""


class Watchers:
    """Callbacks for changes, by name; they run in the thread that makes the change."""

    def __init__(self) -> None:
        self._watchers: defaultdict[str, list[Callable[[], object]]] = defaultdict(list)

    @contextmanager
    def watching(self, name: str, changed: Callable[[], object]) -> Iterator[None]:
        """Call ``changed`` whenever ``name`` changes, while the block lasts."""
        watchers = self._watchers[name]
        watchers.append(changed)
        try:
            yield
        finally:
            watchers.remove(changed)

    def changed(self, name: str) -> None:
        """Call the watchers of ``name``."""
        for changed in list(self._watchers.get(name, ())):
            changed()
