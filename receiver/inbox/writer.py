"""Writes a batch into the inbox in one commit, and retries it after a deadlock."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy.exc import DBAPIError

from receiver.database.autocommit import Autocommit
from receiver.database.engine import Database
from receiver.failpoints import reach
from receiver.inbox import store as inbox
from receiver.inbox.store import InboxRow, StoreResult

_MAX_ATTEMPTS = 3
_DEADLOCK_STATES = {"40P01", "40001"}


class InboxWriter:
    """Writes batches; thread-safe."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._autocommit = Autocommit(database)

    def close(self) -> None:
        """Close the idle connections."""
        self._autocommit.close()

    def write(self, rows: Sequence[InboxRow]) -> list[StoreResult]:
        """Store ``rows`` and commit; one result each, in the same order.

        Raises:
            DBAPIError: of SQLAlchemy; none of the rows is known to be stored.
        """
        attempts_left = _MAX_ATTEMPTS
        while True:
            attempts_left -= 1
            try:
                reach("group_commit.before_commit")
                results = self._insert(rows)
            except DBAPIError as error:
                if not attempts_left or not _is_retryable(error):
                    raise
            else:
                reach("group_commit.after_commit")
                return results

    def _insert(self, rows: Sequence[InboxRow]) -> list[StoreResult]:
        if self._autocommit.run(lambda connection: inbox.insert_new(connection, rows)):
            return [StoreResult(row.id, duplicate=False) for row in rows]
        with self._database.transaction() as session:
            return inbox.store(session, rows)


def _is_retryable(error: DBAPIError) -> bool:
    """Whether an immediate retry may succeed: a deadlock, or a lost connection.

    The transaction is idempotent, so it may be repeated even if the connection was lost during
    the commit. The retry uses a new connection.
    """
    deadlock = getattr(error.orig, "sqlstate", None) in _DEADLOCK_STATES
    return deadlock or error.connection_invalidated
