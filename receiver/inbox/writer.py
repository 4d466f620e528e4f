"""Batches on their way into the inbox: a commit for each, in as few steps as it takes."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy.exc import DBAPIError

from receiver.database.autocommit import Autocommit
from receiver.database.engine import Database
from receiver.failpoints import reach
from receiver.inbox import store as inbox
from receiver.inbox.store import InboxRow, StoreResult

_ATTEMPTS = 3
_DEADLOCK_STATES = {"40P01", "40001"}


class InboxWriter:
    """Writes batches, from any thread."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._autocommit = Autocommit(database)

    def close(self) -> None:
        """Close the connections that are not in use."""
        self._autocommit.close()

    def write(self, entries: Sequence[InboxRow]) -> list[StoreResult]:
        """Write what is new of ``entries``, and commit; one outcome each, in their order.

        Raises:
            DBAPIError: of SQLAlchemy; none of them is known to be stored.
        """
        left = _ATTEMPTS
        while True:
            left -= 1
            try:
                reach("group_commit.before_commit")
                stored = self._insert(entries)
            except DBAPIError as error:
                if not left or not _passing(error):
                    raise
            else:
                reach("group_commit.after_commit")
                return stored

    def _insert(self, entries: Sequence[InboxRow]) -> list[StoreResult]:
        if self._autocommit.run(lambda connection: inbox.insert_new(connection, entries)):
            return [StoreResult(entry.id, duplicate=False) for entry in entries]
        with self._database.transaction() as session:
            return inbox.store(session, entries)


def _passing(error: DBAPIError) -> bool:
    """Whether the same transaction may succeed at once: it is idempotent, so it may be repeated.

    A connection that was lost, in the commit even, is replaced by a new one.
    """
    deadlock = getattr(error.orig, "sqlstate", None) in _DEADLOCK_STATES
    return deadlock or error.connection_invalidated
