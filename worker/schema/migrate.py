"""Prepares a database: the schema, and the key of its digests."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from sqlalchemy import Connection, inspect, text
from sqlmodel import SQLModel

from receiver.database import heartbeats
from receiver.database.engine import Database
from receiver.inbox import rejections, spool
from receiver.inbox import store as inbox
from receiver.vault import index_key
from worker.schema import models

if TYPE_CHECKING:
    from alembic.config import Config

# The schema version that this code requires: the newest migration.
HEAD: Final = "0009"
# Every module that defines a table: importing them registers the tables in the metadata.
_TABLE_MODULES = (heartbeats, inbox, index_key, models, rejections, spool)
METADATA = SQLModel.metadata
_MIGRATIONS = Path(__file__).parent / "migrations"
# An arbitrary number that nothing else in the database uses as an advisory lock.
_ADVISORY_LOCK = 0x636F6465


def migrate(database: Database, keys: Sequence[bytes]) -> None:
    """Upgrade the schema to the newest version; create the index key of a new database.

    Safe to run in several processes at once.
    """
    if not is_current(database):
        _upgrade(database)
    index_key.ensure(database, keys)


def is_current(database: Database) -> bool:
    """Whether the schema has exactly the version that this code requires."""
    with database.reading() as session:
        connection = session.connection()
        if not inspect(connection).has_table("alembic_version"):
            return False
        return connection.scalars(text("SELECT version_num FROM alembic_version")).all() == [HEAD]


def _upgrade(database: Database) -> None:
    from alembic import command  # noqa: PLC0415 - slow to import, and rarely needed

    with database.transaction() as session:
        connection = session.connection()
        if database.is_postgresql:
            connection.execute(text("SET LOCAL statement_timeout = 0"))
            connection.execute(text("SET LOCAL lock_timeout = 0"))
            connection.execute(text(f"SELECT pg_advisory_xact_lock({_ADVISORY_LOCK})"))
        command.upgrade(_config(connection), "head")


def _config(connection: Connection | None) -> Config:
    from alembic.config import Config  # noqa: PLC0415 - as above

    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    config.attributes["connection"] = connection
    return config
