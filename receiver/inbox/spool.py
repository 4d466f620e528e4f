"""Shelter while the database is away: the inbox's table in SQLite files of this host's own.

Each process writes to a file of its own in ``SPOOL_DIR``, as durably as to the database, so an
event in it may be acknowledged. Once the database is back, the files are drained into the inbox
in the order of arrival, those of processes that died as well; what came to the inbox by another
way meanwhile is a duplicate, and its id leads to the first one's.
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
from receiver.database.engine import TROUBLE, Database, kind_of
from receiver.errors import CodecatchError, ConfigurationError, StoreUnavailable
from receiver.failpoints import reach
from receiver.inbox import store as inbox
from receiver.inbox.store import INBOX, InboxRow, StoreResult
from receiver.vault.sealing import key_id_of

# What one file may hold: half a million events of the usual size.
LARGEST_FILE = 512 * 1024 * 1024
DRAINED_AT_ONCE = 200
_log = structlog.get_logger(__name__)


class BrokenSpool(CodecatchError):
    """A file of the spool that cannot be read or written; the text names it."""


class EventAlias(SQLModel, table=True):
    """The id under which an event was acknowledged that turned out to be a duplicate."""

    __tablename__ = "event_aliases"

    id: str = Field(primary_key=True)
    first_id: str = Field(index=True)


_ALIASES: Table = EventAlias.__table__  # type: ignore[attr-defined]


class SpoolFile:
    """One file of the spool, held by this process until it is closed.

    Only its holder opens it: a lock in a file beside it says whether that one is alive.

    Raises:
        BrokenSpool: it cannot be used; so do all methods but :meth:`store`.
    """

    def __init__(self, path: Path, lock: TextIO) -> None:
        self.path = path
        self._lock = lock
        self._database = Database(f"sqlite:///{path}", most_bytes=LARGEST_FILE)
        self._unfit: set[str] = set()
        with self._breaking(), self._database.transaction() as session:
            _make_table(session)

    def store(self, entries: Sequence[InboxRow]) -> list[StoreResult]:
        """Write entries; like :func:`receiver.inbox.store.store`, on this file.

        Raises:
            StoreUnavailable: it cannot be written, or it is full.
        """
        reach("spool.before_commit")
        try:
            with self._database.transaction() as session:
                stored = inbox.store(session, entries)
        except SQLAlchemyError as error:
            _log.error("spool.write_failed", events=len(entries), error=kind_of(error))
            raise StoreUnavailable("neither the database nor the spool took the event") from None
        reach("spool.after_commit")
        return stored

    @property
    def depth(self) -> int:
        """How many events it holds."""
        with self._breaking(), self._database.reading() as session:
            return session.connection().scalar(select(func.count()).select_from(INBOX)) or 0

    @property
    def movable(self) -> int:
        """How many of them the database has not refused."""
        return self.depth - len(self._unfit)

    def drain(self, database: Database) -> list[str] | None:
        """Move the oldest events into ``database``; the ids of those that are new there.

        None if there was nothing that can be moved.

        Raises:
            SQLAlchemyError: the database is in trouble; nothing is lost.
        """
        oldest = select(INBOX).order_by(INBOX.c.id).limit(DRAINED_AT_ONCE)
        if self._unfit:
            oldest = oldest.where(INBOX.c.id.not_in(self._unfit))
        with self._breaking(), self._database.reading() as session:
            entries = [
                InboxRow(dict(row)) for row in session.connection().execute(oldest).mappings()
            ]
        if not entries:
            return None
        try:
            moved = _move(database, entries)
        except TROUBLE:
            raise
        except DBAPIError:
            moved = [new for entry in entries for new in self._move_alone(database, entry)]
        reach("drain.after_store")
        done = [entry.id for entry in entries if entry.id not in self._unfit]
        with self._breaking(), self._database.transaction() as session:
            session.connection().execute(delete(INBOX).where(INBOX.c.id.in_(done)))
        return moved

    def close(self) -> None:
        """Let go of the file, and remove it if nothing is in it."""
        try:
            empty = self.depth == 0
        except BrokenSpool:
            empty = False
        self._database.dispose()
        if empty:
            for suffix in ("", "-wal", "-shm"):
                self.path.with_name(self.path.name + suffix).unlink(missing_ok=True)
            _lock_of(self.path).unlink(missing_ok=True)
        self._lock.close()

    @contextmanager
    def _breaking(self) -> Iterator[None]:
        """Tell trouble with this file from trouble with the database that it is drained into."""
        try:
            yield
        except SQLAlchemyError as error:
            raise BrokenSpool(f"{self.path.name} cannot be used ({kind_of(error)})") from None

    def _move_alone(self, database: Database, entry: InboxRow) -> list[str]:
        try:
            return _move(database, [entry])
        except TROUBLE:
            raise
        except DBAPIError as error:
            # It stays here, for a person to look at, and does not hold the others up.
            self._unfit.add(entry.id)
            _log.error("spool.event_refused", event_id=entry.id, error=kind_of(error))
            return []


def _move(database: Database, entries: Sequence[InboxRow]) -> list[str]:
    with database.transaction() as session:
        outcomes = inbox.store(session, entries)
        aliases = [
            {"id": entry.id, "first_id": outcome.id}
            for entry, outcome in zip(entries, outcomes, strict=True)
            if outcome.id != entry.id
        ]
        if aliases:
            bulk.insert_new(session.connection(), _ALIASES, aliases)
    known = {alias["id"] for alias in aliases}
    return [entry.id for entry in entries if entry.id not in known]


class Spool:
    """The spool's directory, as one process uses it: with a file of its own in it.

    Raises:
        ConfigurationError: nothing can be written there.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._own = self._create()
        except (OSError, BrokenSpool) as error:
            reason = error.strerror if isinstance(error, OSError) else str(error)
            raise ConfigurationError(
                f"SPOOL_DIR: wants a directory that can be written ({reason})"
            ) from None

    def store(self, entries: Sequence[InboxRow]) -> list[StoreResult]:
        """Write entries to this process's file: see :meth:`SpoolFile.store`."""
        return self._own.store(entries)

    def is_empty(self) -> bool:
        """Whether nothing is left in this process's file that could be moved."""
        try:
            return self._own.movable == 0
        except BrokenSpool:
            return True

    def drain(self, database: Database) -> Iterator[list[str]]:
        """Move everything into ``database``, a batch at a time; the new ids of each batch.

        A file that a process left broken is passed over, and logged, for a person to look at.

        Raises:
            SQLAlchemyError: the database is in trouble; nothing is lost.
            BrokenSpool: this process's own file is.
        """
        yield from _batches(self._own, database)
        for path in sorted(self._folder.glob("*.db")):
            if path == self._own.path:
                continue
            with _taken(path) as lock:
                if lock is None:
                    continue  # its process is alive
                if not path.exists():  # somebody else has just drained it
                    _lock_of(path).unlink(missing_ok=True)
                    continue
                try:
                    yield from self._adopt(path, lock, database)
                except BrokenSpool as broken:
                    _log.error("spool.file_broken", reason=str(broken))

    def close(self) -> None:
        """Let go of this process's file."""
        self._own.close()

    @staticmethod
    def _adopt(path: Path, lock: TextIO, database: Database) -> Iterator[list[str]]:
        adopted = SpoolFile(path, lock)
        try:
            yield from _batches(adopted, database)
        finally:
            adopted.close()

    def _create(self) -> SpoolFile:
        path = self._folder / f"{ULID()}.db"
        lock = _lock_of(path).open("w")
        fcntl.flock(lock, fcntl.LOCK_EX)
        return SpoolFile(path, lock)


def depth(folder: Path) -> int:
    """How many acknowledged events wait in the directory, whoever holds the files."""
    return sum(map(_count, folder.glob("*.db")))


def sealed_by(folder: Path) -> Counter[bytes]:
    """How many of the events that wait in the directory were sealed with which key, by its id."""
    counted: Counter[bytes] = Counter()
    for path in folder.glob("*.db"):
        counted.update(key_id_of(body) for (body,) in _ask(path, "body"))
    return counted


def _count(path: Path) -> int:
    return sum(count for (count,) in _ask(path, "count(*)"))


def _ask(path: Path, what: str) -> list[tuple[Any, ...]]:
    try:
        with closing(sqlite3.connect(path, timeout=2)) as connection:
            return connection.execute(f"SELECT {what} FROM {INBOX.name}").fetchall()  # noqa: S608 - our own words
    except sqlite3.Error:
        return []  # it was drained and removed in this moment


def _batches(file: SpoolFile, database: Database) -> Iterator[list[str]]:
    while (moved := file.drain(database)) is not None:
        yield moved


def _make_table(session: Session) -> None:
    """The inbox's table; one that an earlier version made gets the columns that have come since."""
    connection = session.connection()
    INBOX.create(connection, checkfirst=True)
    known = {column["name"] for column in inspect(connection).get_columns(INBOX.name)}
    for column in INBOX.columns:
        if column.name not in known:
            kind = column.type.compile(connection.dialect)
            session.connection().execute(
                text(f"ALTER TABLE {INBOX.name} ADD COLUMN {column.name} {kind}")
            )


def _lock_of(path: Path) -> Path:
    return path.with_suffix(".lock")


@contextmanager
def _taken(path: Path) -> Iterator[TextIO | None]:
    """The lock of a file whose process is gone; None where it is not."""
    with _lock_of(path).open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            yield None
        else:
            yield lock
