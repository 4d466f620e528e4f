"""Whether this release and the database's schema fit each other.

A schema's revision is the number of its newest migration. The schema also records the oldest
release that fits it, by the revision of that release's own schema. So releases that are neighbours
work on one database at the same time, also while it is migrated.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from time import monotonic
from typing import Final

import structlog
from sqlalchemy import Table, func, inspect, select, text
from sqlalchemy.exc import SQLAlchemyError
from sqlmodel import Field, SQLModel

from receiver.database.engine import Database
from receiver.errors import ConfigurationError

# The revision of this release's own schema: its newest migration.
REVISION: Final = 10
# The oldest revision that this release works with: the newest table or column that it needs.
OLDEST_REVISION: Final = 9
_CHECK_SECONDS: Final = 5.0
_log = structlog.get_logger(__name__)


class SchemaRequirement(SQLModel, table=True):
    """What a migration requires of a release: at least this revision of its own schema."""

    __tablename__ = "schema_requirements"

    revision: str = Field(primary_key=True)
    needs_at_least: int


_TABLE: Table = SchemaRequirement.__table__  # type: ignore[attr-defined]


@dataclass(frozen=True, slots=True)
class SchemaVersion:
    """The database's revision, 0 if it has none, and the oldest release that fits it."""

    revision: int
    needs_at_least: int = 0

    @property
    def misfit(self) -> str | None:
        """Why this release does not fit, with what to do; None if it does."""
        if self.revision == 0:
            return "DATABASE_URL: the database is not migrated; run codecatch migrate"
        if self.revision < OLDEST_REVISION:
            return (
                f"DATABASE_URL: the schema is {self.revision:04}, and this release needs "
                f"{OLDEST_REVISION:04} or later; run codecatch migrate"
            )
        if self.needs_at_least > REVISION:
            return (
                f"DATABASE_URL: the schema {self.revision:04} needs a release with schema "
                f"{self.needs_at_least:04} or later, and this one has {REVISION:04}; "
                "upgrade codecatch"
            )
        return None


def version(database: Database) -> SchemaVersion:
    """Read the schema's version.

    Raises:
        ConfigurationError: the database was migrated by something else.
        SQLAlchemyError: the database does not answer.
    """
    with database.reading() as session:
        connection = session.connection()
        tables = inspect(connection)
        if not tables.has_table("alembic_version"):
            return SchemaVersion(0)
        found = connection.scalars(text("SELECT version_num FROM alembic_version")).all()
        if not found:
            return SchemaVersion(0)
        if len(found) > 1 or not str(found[0]).isdecimal():
            raise ConfigurationError("DATABASE_URL: the schema is not one of codecatch")
        needed = 0
        if tables.has_table(_TABLE.name):
            needed = connection.scalar(select(func.max(_TABLE.c.needs_at_least))) or 0
        return SchemaVersion(int(found[0]), needed)


def check(database: Database) -> None:
    """Check that the schema fits.

    Raises:
        ConfigurationError: it does not; the text says what to do.
        SQLAlchemyError: the database does not answer.
    """
    misfit = version(database).misfit
    if misfit is not None:
        raise ConfigurationError(misfit)


class Watch:
    """Whether the schema still fits while a part runs; one log line for each change."""

    def __init__(self, database: Database, *, every: float = _CHECK_SECONDS) -> None:
        self._database = database
        self._every = every
        self._lock = threading.Lock()
        self._next_at = 0.0
        self._misfit: str | None = None

    def misfit(self) -> str | None:
        """Why this release does not fit; None if it does, or if the database does not answer."""
        with self._lock:
            if monotonic() >= self._next_at:
                self._next_at = monotonic() + self._every
                self._look()
            return self._misfit

    def _look(self) -> None:
        try:
            misfit = version(self._database).misfit
        except ConfigurationError as error:
            misfit = str(error)
        except SQLAlchemyError:
            return  # another check says so
        if misfit is not None and self._misfit is None:
            _log.error("schema.does_not_fit", reason=misfit)
        elif misfit is None and self._misfit is not None:
            _log.info("schema.fits_again")
        self._misfit = misfit
