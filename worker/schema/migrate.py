"""Prepares a database: the schema, and the key of its digests."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from sqlalchemy import Connection, text
from sqlmodel import SQLModel

from receiver.database import compatibility, heartbeats
from receiver.database.engine import Database
from receiver.errors import ConfigurationError
from receiver.inbox import rejections, spool
from receiver.inbox import store as inbox
from receiver.vault import index_key
from worker.schema import models

if TYPE_CHECKING:
    from alembic.config import Config

# The schema version that this code requires: the newest migration.
HEAD: Final = f"{compatibility.REVISION:04}"
# The oldest schema to go back to. Before it, nothing recorded which data had been erased, and the
# ids of spooled duplicates would be lost.
OLDEST_TARGET: Final = "0005"
# Every module that defines a table: importing them registers the tables in the metadata.
_TABLE_MODULES = (compatibility, heartbeats, inbox, index_key, models, rejections, spool)
METADATA = SQLModel.metadata
_MIGRATIONS = Path(__file__).parent / "migrations"
# An arbitrary number that nothing else in the database uses as an advisory lock.
_ADVISORY_LOCK = 0x636F6465


def migrate(database: Database, keys: Sequence[bytes]) -> None:
    """Upgrade the schema to this release's; create the index key of a new database.

    A newer schema that this release fits stays as it is. Safe to run in several processes at once.

    Raises:
        ConfigurationError: the schema is newer, and this release does not fit.
    """
    found = compatibility.version(database)
    if found.revision < compatibility.REVISION:
        _move(database, HEAD)
    elif found.misfit is not None:
        raise ConfigurationError(found.misfit)
    index_key.ensure(database, keys)


def migrate_to(database: Database, target: str) -> None:
    """Upgrade or downgrade the schema to the revision ``target``.

    Raises:
        ConfigurationError: there is no such revision, or no way to it.
    """
    found = compatibility.version(database).revision
    if not target.isdecimal() or not 0 < int(target) <= compatibility.REVISION:
        raise ConfigurationError(f"--to: {target} is no revision; choose 0001 to {HEAD}")
    target = f"{int(target):04}"
    if found > compatibility.REVISION:
        raise ConfigurationError(
            f"DATABASE_URL: the database's schema {found:04} is newer than this release ({HEAD}), "
            "which cannot undo it; run codecatch migrate --to with the newer release"
        )
    if int(target) < min(found, int(OLDEST_TARGET)):
        raise ConfigurationError(
            f"--to: {target} cannot be reached: migrations up to {OLDEST_TARGET} cannot be undone "
            "without losing what they record; restore a backup"
        )
    if int(target) != found:
        _move(database, target, back=int(target) < found)


def is_current(database: Database) -> bool:
    """Whether the schema is exactly this release's."""
    return compatibility.version(database).revision == compatibility.REVISION


def _move(database: Database, target: str, *, back: bool = False) -> None:
    from alembic import command  # noqa: PLC0415 - slow to import, and rarely needed

    with database.transaction() as session:
        connection = session.connection()
        if database.is_postgresql:
            connection.execute(text("SET LOCAL statement_timeout = 0"))
            connection.execute(text("SET LOCAL lock_timeout = 0"))
            connection.execute(text(f"SELECT pg_advisory_xact_lock({_ADVISORY_LOCK})"))
        move = command.downgrade if back else command.upgrade
        move(_config(connection), target)


def _config(connection: Connection | None) -> Config:
    from alembic.config import Config  # noqa: PLC0415 - as above

    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    config.attributes["connection"] = connection
    return config
