"""The spool: local SQLite files that hold the inbox's table while the database is down.

Each process writes to its own file in ``SPOOL_DIR``, as durably as to the database, so an event
in it may be acknowledged. When the database is back, the files are drained into the inbox in the
order of arrival, including the files of dead processes. A spooled event that the inbox has already
is a duplicate; an alias maps its id to the id of the first one.
"""

from __future__ import annotations

import fcntl
import sqlite3
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, TextIO

import structlog
from sqlalchemy import Table, delete, func, inspect, select, text
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlmodel import Field, Session, SQLModel
from ulid import ULID

from receiver.database import bulk
from receiver.database.engine import TRANSIENT_ERRORS, Database, kind_of
from receiver.errors import CodecatchError, ConfigurationError, StoreUnavailable
from receiver.failpoints import reach
from receiver.inbox import store as inbox
from receiver.inbox.store import INBOX, InboxRow, StoreResult
from receiver.vault.sealing import key_id_of

# Limit of one file: half a million events of the usual size.
MAX_FILE_BYTES = 512 * 1024 * 1024
_DRAIN_BATCH = 200
_log = structlog.get_logger(__name__)


class BrokenSpool(CodecatchError):
    """A spool file cannot be read or written; the text names the file."""


class EventAlias(SQLModel, table=True):
    """The id under which a spooled event was acknowledged before it proved to be a duplicate."""

    __tablename__ = "event_aliases"

    id: str = Field(primary_key=True)
    first_id: str = Field(index=True)


_ALIASES: Table = EventAlias.__table__  # type: ignore[attr-defined]


class SpoolFile:
    """One spool file, owned by this process until it is closed.

    Only the owner opens the file: a lock on a second file beside it shows whether the owner is
    alive.

    Raises:
        BrokenSpool: the file cannot be used. All methods but :meth:`store` raise it too.
    """

    def __init__(self, path: Path, lock: TextIO) -> None:
        self.path = path
        self._lock = lock
        self._database = Database(f"sqlite:///{path}", max_bytes=MAX_FILE_BYTES)
        self._refused: set[str] = set()
        with self._file_errors(), self._database.transaction() as session:
            _create_table(session)

    def store(self, rows: Sequence[InboxRow]) -> list[StoreResult]:
        """Store rows in this file; see :func:`receiver.inbox.store.store`.

        Raises:
            StoreUnavailable: the file cannot be written, or it is full.
        """
        reach("spool.before_commit")
        try:
            with self._database.transaction() as session:
                results = inbox.store(session, rows)
        except SQLAlchemyError as error:
            _log.error("spool.write_failed", events=len(rows), error=kind_of(error))
            raise StoreUnavailable("neither the database nor the spool took the event") from None
        reach("spool.after_commit")
        return results

    @property
    def depth(self) -> int:
        """Number of events in the file."""
        with self._file_errors(), self._database.reading() as session:
            return session.connection().scalar(select(func.count()).select_from(INBOX)) or 0

    @property
    def drainable(self) -> int:
        """Number of events in the file that the database has not refused."""
        return self.depth - len(self._refused)

    def drain(self, database: Database) -> list[str] | None:
        """Move the oldest events into ``database``; the ids of those that are new there.

        None if there is nothing left to move.

        Raises:
            SQLAlchemyError: the database failed; nothing is lost.
        """
        oldest = select(INBOX).order_by(INBOX.c.id).limit(_DRAIN_BATCH)
        if self._refused:
            oldest = oldest.where(INBOX.c.id.not_in(self._refused))
        with self._file_errors(), self._database.reading() as session:
            stored = session.connection().execute(oldest).mappings().all()
        rows = [InboxRow.read(dict(row)) for row in stored]
        if not rows:
            return None
        try:
            new_ids = _insert(database, rows)
        except TRANSIENT_ERRORS:
            raise
        except DBAPIError:
            new_ids = [new_id for row in rows for new_id in self._insert_single(database, row)]
        reach("drain.after_store")
        drained = [row.id for row in rows if row.id not in self._refused]
        with self._file_errors(), self._database.transaction() as session:
            session.connection().execute(delete(INBOX).where(INBOX.c.id.in_(drained)))
        return new_ids

    def close(self) -> None:
        """Close the file, release its lock, and remove it if it is empty."""
        try:
            empty = self.depth == 0
        except BrokenSpool:
            empty = False
        self._database.dispose()
        if empty:
            for suffix in ("", "-wal", "-shm"):
                self.path.with_name(self.path.name + suffix).unlink(missing_ok=True)
            _lock_path(self.path).unlink(missing_ok=True)
        self._lock.close()

    @contextmanager
    def _file_errors(self) -> Iterator[None]:
        """Raise this file's errors as BrokenSpool, apart from those of the target database."""
        try:
            yield
        except SQLAlchemyError as error:
            raise BrokenSpool(f"{self.path.name} cannot be used ({kind_of(error)})") from None

    def _insert_single(self, database: Database, row: InboxRow) -> list[str]:
        try:
            return _insert(database, [row])
        except TRANSIENT_ERRORS:
            raise
        except DBAPIError as error:
            # The event stays in the file for an operator, and does not block the others.
            self._refused.add(row.id)
            _log.error("spool.event_refused", event_id=row.id, error=kind_of(error))
            return []


def _insert(database: Database, rows: Sequence[InboxRow]) -> list[str]:
    """Store rows and the aliases of duplicates in one transaction; the ids that are new."""
    with database.transaction() as session:
        results = inbox.store(session, rows)
        aliases = [
            {"id": row.id, "first_id": result.id}
            for row, result in zip(rows, results, strict=True)
            if result.id != row.id
        ]
        if aliases:
            bulk.insert_new(session.connection(), _ALIASES, aliases)
    duplicates = {alias["id"] for alias in aliases}
    return [row.id for row in rows if row.id not in duplicates]


class Spool:
    """The spool directory, as one process uses it: it writes to its own file in there.

    Raises:
        ConfigurationError: the directory is not writable.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._own_file = self._create_file()
        except (OSError, BrokenSpool) as error:
            reason = error.strerror if isinstance(error, OSError) else str(error)
            raise ConfigurationError(
                f"SPOOL_DIR: must be a writable directory ({reason})"
            ) from None

    def store(self, rows: Sequence[InboxRow]) -> list[StoreResult]:
        """Store rows in this process's file; see :meth:`SpoolFile.store`."""
        return self._own_file.store(rows)

    def is_empty(self) -> bool:
        """Whether this process's file has no event that could be drained."""
        try:
            return self._own_file.drainable == 0
        except BrokenSpool:
            return True

    def drain(self, database: Database) -> Iterator[list[str]]:
        """Move all events into ``database``, a batch at a time; the new ids of each batch.

        A broken file of a dead process is logged for an operator and skipped.

        Raises:
            SQLAlchemyError: the database failed; nothing is lost.
            BrokenSpool: this process's own file is broken.
        """
        yield from _batches(self._own_file, database)
        for path in sorted(self._folder.glob("*.db")):
            if path == self._own_file.path:
                continue
            with _lock_if_orphaned(path) as lock:
                if lock is None:
                    continue
                if not path.exists():  # another process has just drained it
                    _lock_path(path).unlink(missing_ok=True)
                    continue
                try:
                    yield from self._drain_orphan(path, lock, database)
                except BrokenSpool as broken:
                    _log.error("spool.file_broken", reason=str(broken))

    def close(self) -> None:
        """Close this process's file."""
        self._own_file.close()

    @staticmethod
    def _drain_orphan(path: Path, lock: TextIO, database: Database) -> Iterator[list[str]]:
        orphan = SpoolFile(path, lock)
        try:
            yield from _batches(orphan, database)
        finally:
            orphan.close()

    def _create_file(self) -> SpoolFile:
        path = self._folder / f"{ULID()}.db"
        lock = _lock_path(path).open("w")
        fcntl.flock(lock, fcntl.LOCK_EX)
        return SpoolFile(path, lock)


def depth(folder: Path) -> int:
    """Number of acknowledged events in the directory, in the files of all processes."""
    return sum(map(_count, folder.glob("*.db")))


def sealed_by(folder: Path) -> Counter[bytes]:
    """Number of events in the directory for each key that sealed them, by the key's id."""
    counted: Counter[bytes] = Counter()
    for path in folder.glob("*.db"):
        counted.update(key_id_of(body) for (body,) in _query(path, "body"))
    return counted


def _count(path: Path) -> int:
    return sum(count for (count,) in _query(path, "count(*)"))


def _query(path: Path, expression: str) -> list[tuple[Any, ...]]:
    try:
        with closing(sqlite3.connect(path, timeout=2)) as connection:
            return connection.execute(f"SELECT {expression} FROM {INBOX.name}").fetchall()  # noqa: S608 - constants only
    except sqlite3.Error:
        return []  # it was drained and removed at this moment


def _batches(file: SpoolFile, database: Database) -> Iterator[list[str]]:
    while (new_ids := file.drain(database)) is not None:
        yield new_ids


def _create_table(session: Session) -> None:
    """Create the inbox's table; to the table of an earlier version add the missing columns."""
    connection = session.connection()
    INBOX.create(connection, checkfirst=True)
    known = {column["name"] for column in inspect(connection).get_columns(INBOX.name)}
    for column in INBOX.columns:
        if column.name not in known:
            kind = column.type.compile(connection.dialect)
            session.connection().execute(
                text(f"ALTER TABLE {INBOX.name} ADD COLUMN {column.name} {kind}")
            )


def _lock_path(path: Path) -> Path:
    return path.with_suffix(".lock")


@contextmanager
def _lock_if_orphaned(path: Path) -> Iterator[TextIO | None]:
    """Lock a spool file whose process is dead; None if the process is alive."""
    with _lock_path(path).open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            yield None
        else:
            yield lock
