"""Migrated databases with an index key, as in an installation, on either server."""

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
    """An open, migrated database; another process can open it by its ``url``."""

    url: str
    database: Database
    vault: Vault


def prepare(url: str) -> None:
    """Migrate the database at ``url`` and close all connections."""
    database = Database(url)
    schema.migrate(database, [KEY])
    database.dispose()


def open_store(url: str) -> Store:
    """Open a prepared database."""
    database = Database(url)
    return Store(url, database, index_key.open_vault(database, [KEY]))
