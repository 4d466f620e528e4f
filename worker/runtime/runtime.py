"""The runtime of a worker process, created from the environment once, after the fork.

Creating it validates every setting: a wrong one stops the process at its start.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass

from receiver import queue
from receiver.database.compatibility import Watch
from receiver.database.engine import Database
from receiver.queue import Waker
from receiver.settings import BrokerSettings, StoreSettings, load
from receiver.vault import index_key
from receiver.vault.sealing import Vault
from worker.configuration.event_policy import EventPolicy
from worker.configuration.settings import RetentionSettings
from worker.runtime.integrations import Integrations, connect_integrations


@dataclass(frozen=True, slots=True)
class Runtime:
    """The objects of one worker process."""

    database: Database
    vault: Vault
    waker: Waker
    integrations: Integrations
    retention: RetentionSettings

    @property
    def policy(self) -> EventPolicy:
        """The policy for handling events."""
        return self.integrations.policy

    def close(self) -> None:
        """Close every connection."""
        self.waker.close()
        self.integrations.close()
        self.database.dispose()


def connect() -> Runtime:
    """Create the runtime from the environment.

    Raises:
        ConfigurationError: a variable is missing or invalid, or the database is not prepared for
            these keys.
    """
    store, broker_url = load(StoreSettings), load(BrokerSettings).required_url
    retention = load(RetentionSettings)
    integrations = connect_integrations()
    database = Database(store.url)
    try:
        vault = index_key.open_vault(database, store.keys)
    except BaseException:
        database.dispose()
        integrations.close()
        raise
    return Runtime(database, vault, Waker(queue.celery_app(broker_url)), integrations, retention)


class _Process:
    """The runtime of this process, created when first used; a child must not use its parent's."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._runtime: Runtime | None = None
        self._schema: Watch | None = None

    def get(self) -> Runtime:
        with self._lock:
            if self._runtime is None:
                self._runtime = connect()
            return self._runtime

    def misfit(self) -> str | None:
        """Why this release does not fit the database's schema now; None if it does."""
        database = self.get().database
        with self._lock:
            if self._schema is None:
                self._schema = Watch(database)
            watch = self._schema
        return watch.misfit()

    def close(self) -> None:
        with self._lock:
            if self._runtime is not None:
                self._runtime.close()
            self._runtime = self._schema = None


process = _Process()
