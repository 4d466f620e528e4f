"""Databases as an installation has them: migrated and sealed, on either server."""

from __future__ import annotations

import base64
from dataclasses import dataclass

from receiver.database.engine import Database
from receiver.vault import index_key
from receiver.vault.sealing import Vault
from worker.schema import migrate as schema

KEY = bytes(range(32))
ENCRYPTION_KEYS = base64.b64encode(KEY).decode()


@dataclass(frozen=True, slots=True)
class Store:
    """A migrated database, opened, and how another process opens it."""

    url: str
    database: Database
    vault: Vault


def prepare(url: str) -> None:
    """Migrate the database at ``url`` and leave no connection behind."""
    database = Database(url)
    schema.migrate(database, [KEY])
    database.dispose()


def open_store(url: str) -> Store:
    """Open a database that was prepared."""
    database = Database(url)
    return Store(url, database, index_key.open_vault(database, [KEY]))
