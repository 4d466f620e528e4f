"""Preparing a database: the schema, and the key that its digests are made with."""

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

# The version of the schema that this code was written for: that of the newest migration.
HEAD: Final = "0006"
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
    if not is_current(database):
        _upgrade(database)
    index_key.ensure(database, keys)


def is_current(database: Database) -> bool:
    """Whether the schema is the one that this code was written for."""
    with database.reading() as session:
        connection = session.connection()
        if not inspect(connection).has_table("alembic_version"):
            return False
        return connection.scalars(text("SELECT version_num FROM alembic_version")).all() == [HEAD]


def _upgrade(database: Database) -> None:
    from alembic import command  # noqa: PLC0415 - dear, and most starts find nothing to do

    with database.transaction() as session:
        connection = session.connection()
        if database.is_postgresql:
            connection.execute(text("SET LOCAL statement_timeout = 0"))
            connection.execute(text("SET LOCAL lock_timeout = 0"))
            connection.execute(text(f"SELECT pg_advisory_xact_lock({_ADVISORY_LOCK})"))
        command.upgrade(_config(connection), "head")


def _config(connection: Connection | None) -> Config:
    from alembic.config import Config  # noqa: PLC0415 - the same

    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    config.attributes["connection"] = connection
    return config
