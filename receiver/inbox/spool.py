"""The spool: local SQLite files that hold the inbox's table while the database is down.

Each process writes to its own file in ``SPOOL_DIR``, as durably as to the database, so an event
in it may be acknowledged. When the database is back, the files are drained into the inbox in the
order of arrival, including the files of dead processes. A spooled event that the inbox has already
is a duplicate; an alias maps its id to the id of the first one.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import TextIO

import structlog
from sqlalchemy import Table, delete, func, inspect, select, text
from sqlalchemy.exc import SQLAlchemyError
from sqlmodel import Field, Session, SQLModel
from ulid import ULID

from receiver.database import bulk
from receiver.database.engine import Database
from receiver.database.trouble import is_trouble, kind_of, reason_of
from receiver.errors import CodecatchError, StoreUnavailable
from receiver.failpoints import reach
from receiver.inbox import store as inbox
from receiver.inbox.store import INBOX, InboxRow, StoreResult
from receiver.vault import index_key
from receiver.vault.sealing import KEY_ID_AT, key_id_of

# Limit of one file: half a million events of the usual size.
MAX_FILE_BYTES = 512 * 1024 * 1024
_DRAIN_BATCH = 200
_LOOK_SECONDS = 2.0
# A page of SQLite, and what its log adds.
_PROBE_BYTES = 8_192
# Takes the write lock and writes a page, without changing anything.
_WRITE = text("PRAGMA user_version = 1")
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
        try:
            with self._file_errors(), self._database.transaction() as session:
                _create_table(session)
        except BrokenSpool:
            self._database.dispose()
            raise

    def store(self, rows: Sequence[InboxRow]) -> list[StoreResult]:
        """Store rows in this file; see :func:`receiver.inbox.store.store`.

        Raises:
            SQLAlchemyError: the file cannot be written, or it is full.
        """
        reach("spool.before_commit")
        with self._database.transaction() as session:
            results = inbox.store(session, rows)
        reach("spool.after_commit")
        return results

    def reason_unwritable(self) -> str | None:
        """Why a transaction that writes fails, in a few words; None if it succeeds."""
        try:
            with self._database.transaction() as session:
                session.connection().execute(_WRITE)
        except SQLAlchemyError as error:
            return reason_of(error)
        return None

    def is_readable(self) -> bool:
        """Whether the file can be read; a full disk does not prevent that."""
        try:
            return self.path.exists() and self.depth >= 0
        except BrokenSpool:
            return False

    def abandon(self) -> None:
        """Close the file and release its lock, without touching it."""
        self._database.dispose()
        self._lock.close()

    @property
    def depth(self) -> int:
        """Number of events in the file."""
        with self._file_errors(), self._database.reading() as session:
            return session.connection().scalar(select(func.count()).select_from(INBOX)) or 0

    def retry_refused(self) -> None:
        """Let :meth:`drain` try again what the database has refused."""
        self._refused.clear()

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
        except Exception as error:
            if is_trouble(error):
                raise
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
            _remove(self.path)
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
        except Exception as error:
            if is_trouble(error):
                raise
            # The event stays in the file, and does not block the others.
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

    If the file cannot be made, the spool is closed, and says so in the log; :meth:`reopen` tries
    again. ``key`` is the database's sealed index key; a copy beside the files lets the next process
    start while the database is away.
    """

    def __init__(self, folder: Path, key: bytes | None = None) -> None:
        self._folder = folder
        self._key = key
        self._own_file: SpoolFile | None = None
        self._reason: str | None = None
        self.reopen()

    @property
    def is_open(self) -> bool:
        """Whether this process has a file to write to."""
        return self._own_file is not None

    @property
    def reason(self) -> str | None:
        """Why the last write failed, or why there is no file, in a few words; None if all is well.

        The words quote no value.
        """
        return self._reason

    def reopen(self) -> None:
        """Make this process's file, or another one if it cannot be read any more.

        An unreadable file stays for an operator. What the database has refused is tried again.
        """
        own = self._own_file
        if own is not None:
            own.retry_refused()
            if not own.is_readable():
                own.abandon()
                self._own_file = None
        try:
            if self._own_file is None:
                self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
                self._own_file = self._create_file()
            if self._key is not None:
                index_key.save_copy(self._folder, self._key)
                self._key = None  # a later one may be newer
        except (OSError, BrokenSpool) as error:
            reason = error.strerror if isinstance(error, OSError) else str(error)
            self._reason = f"SPOOL_DIR: must be a writable directory ({reason})"
            _log.error("spool.not_opened", reason=self._reason)
        else:
            self._reason = self._own_file.reason_unwritable()

    def store(self, rows: Sequence[InboxRow]) -> list[StoreResult]:
        """Store rows in this process's file; see :meth:`SpoolFile.store`."""
        if self._own_file is None:
            raise StoreUnavailable("neither the database nor the spool took the event")
        try:
            stored = self._own_file.store(rows)
        except SQLAlchemyError as error:
            self._reason = reason_of(error)
            _log.error("spool.write_failed", events=len(rows), error=kind_of(error))
            raise StoreUnavailable("neither the database nor the spool took the event") from None
        self._reason = None
        return stored

    def is_empty(self) -> bool:
        """Whether this process's file has no event that could be drained."""
        try:
            return self._own_file is None or self._own_file.drainable == 0
        except BrokenSpool:
            return True

    def drain(self, database: Database) -> Iterator[list[str]]:
        """Move all events into ``database``, a batch at a time; the new ids of each batch.

        A broken file of a dead process is logged for an operator and skipped.

        Raises:
            SQLAlchemyError: the database failed; nothing is lost.
            BrokenSpool: this process's own file is broken.
        """
        own = self._own_file
        if own is not None:
            yield from _batches(own, database)
        for path in sorted(self._folder.glob("*.db")):
            if own is not None and path == own.path:
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
        if self._own_file is not None:
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
        with ExitStack() as undone:
            undone.callback(_remove, path)
            lock = undone.enter_context(_lock_path(path).open("w"))
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            made = SpoolFile(path, lock)
            undone.pop_all()
        return made


@dataclass(frozen=True, slots=True)
class Contents:
    """What the files of all processes hold: acknowledged events that are not in the database.

    ``sealed_by`` has their number by the id of the key that sealed them. ``unreadable`` names the
    files that cannot be read now: locked, damaged, or another user's.
    """

    sealed_by: Counter[bytes]
    unreadable: Sequence[str]

    @property
    def depth(self) -> int:
        """The number of events in the readable files."""
        return self.sealed_by.total()


def look(folder: Path) -> Contents:
    """What is in the directory; creates and changes no file in it."""
    sealed_by: Counter[bytes] = Counter()
    unreadable = []
    try:
        names = sorted(name for name in os.listdir(folder) if name.endswith(".db"))  # noqa: PTH208 - glob() hides errors
    except FileNotFoundError:
        names = []
    except OSError:
        names, unreadable = [], [folder.name]
    for name in names:
        try:
            sealed_by.update(_read_keys(folder / name))
        except sqlite3.Error:
            if (folder / name).exists():  # else it was drained and removed at this moment
                unreadable.append(name)
    return Contents(sealed_by, unreadable)


def depth(folder: Path) -> int:
    """Number of acknowledged events in the directory, in the readable files of all processes."""
    return look(folder).depth


def reason_unusable(folder: Path) -> str | None:
    """Why nothing can be written to the directory now; None if a receiver can use it.

    Looks as the user who runs this. No file remains.
    """
    try:
        existing = next(path for path in (folder, *folder.parents) if path.exists())
        with TemporaryFile(dir=existing, buffering=0) as file:
            if existing == folder:
                file.write(bytes(_PROBE_BYTES))
                os.fsync(file.fileno())
    except OSError as error:
        return error.strerror or type(error).__name__
    return None


def _read_keys(path: Path) -> Counter[bytes]:
    """The key of each event in a file.

    Raises:
        sqlite3.Error: it cannot be read.
    """
    keys = f"SELECT substr(body, 1, {KEY_ID_AT.stop}), count(*) FROM {INBOX.name} GROUP BY 1"  # noqa: S608 - constants only
    # Opening a file that is in WAL mode creates its log, if there is none.
    has_log = path.with_name(f"{path.name}-wal").exists()
    address = f"{path.absolute().as_uri()}?{'mode=ro' if has_log else 'immutable=1'}"
    with closing(sqlite3.connect(address, uri=True, timeout=_LOOK_SECONDS)) as connection:
        tables = "SELECT count(*) FROM sqlite_master WHERE name = ?"
        (known,) = connection.execute(tables, (INBOX.name,)).fetchone()
        if not known:
            return Counter()  # a process is creating it
        return Counter({key_id_of(head): count for head, count in connection.execute(keys)})


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


def _remove(path: Path) -> None:
    """Remove a file and those beside it."""
    with suppress(OSError):  # a directory that may only be read has nothing to remove
        for suffix in ("", "-wal", "-shm"):
            path.with_name(path.name + suffix).unlink(missing_ok=True)
        _lock_path(path).unlink(missing_ok=True)


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
