"""Preparing a database: the schema, and the key that its digests are made with."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text
from sqlmodel import SQLModel

from receiver import heartbeats, inbox, index_key, rejections, spool
from receiver.database import Database
from worker import models

# Every module that defines a table: importing them is what fills the metadata.
_WITH_TABLES = (heartbeats, inbox, index_key, models, rejections, spool)
METADATA = SQLModel.metadata
_MIGRATIONS = Path(__file__).parent / "migrations"
# Any number will do, as long as nobody else locks the same one.
_ADVISORY_LOCK = 0x636F6465


def migrate(database: Database, keys: Sequence[bytes]) -> None:
    """Bring the schema to the newest version, and make the index key of a new database.

    Safe to run in any number of processes at once.
    """
    with database.transaction() as session:
        connection = session.connection()
        if database.is_postgresql:
            connection.execute(text("SET LOCAL statement_timeout = 0"))
            connection.execute(text("SET LOCAL lock_timeout = 0"))
            connection.execute(text(f"SELECT pg_advisory_xact_lock({_ADVISORY_LOCK})"))
        command.upgrade(_config(connection), "head")
    index_key.ensure(database, keys)


def is_current(database: Database) -> bool:
    """Whether the schema is the one that this code was written for."""
    with database.reading() as session:
        at = MigrationContext.configure(session.connection()).get_current_revision()
    return at == ScriptDirectory.from_config(_config(None)).get_current_head()


def _config(connection: Connection | None) -> Config:
    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    config.attributes["connection"] = connection
    return config
