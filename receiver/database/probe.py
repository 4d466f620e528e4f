"""A probe of the database: it has answered only if it has written something."""

from __future__ import annotations

from typing import Final

from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

from receiver.database import heartbeats, trouble
from receiver.database.engine import Database

# Writes no row, and fails if an event could not be inserted: without the table, without the right,
# or while the server is read-only.
_COULD_INSERT: Final = text("INSERT INTO inbox_events (id) SELECT NULL WHERE 1 = 0")


def write(database: Database) -> None:
    """Write a row, and check that events could be stored; a commit of one row.

    Raises:
        SQLAlchemyError: nothing can be stored now.
    """
    with database.transaction() as session:
        session.connection().execute(_COULD_INSERT)
        heartbeats.beat(session, heartbeats.PROBE, database.now(session))


def reason(database: Database) -> str | None:
    """Why nothing can be stored now, in a few words; None if it can."""
    try:
        write(database)
    except SQLAlchemyError as error:
        return trouble.reason_of(error)
    return None
