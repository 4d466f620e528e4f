"""Errors of the database: whether a row is at fault, or the database itself.

Only the values of a row may be blamed on it. Everything else says "not now": the connection was
lost, the server is read-only, a table or a right is missing, the disk is full, the file is damaged.
Then nothing is written, no event is at fault, and the work is done later.
"""

from __future__ import annotations

import sqlite3
from typing import Final

from sqlalchemy.exc import DataError, DBAPIError, IntegrityError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from receiver.database import sqlite

# Any other cause: the server does not answer.
AWAY: Final = "away"
_FULL: Final = "the disk or the quota is full"
# By SQLSTATE, then by its class.
_BY_STATE: Final = {
    "25006": "read-only",
    "42501": "a right is missing",
    "42P01": "a table is missing",
    "42703": "a column is missing",
    "53100": _FULL,
    "53300": "no connection is free",
    "55P03": "locked",
    "57014": "too slow",
}
_BY_CLASS: Final = {"XX": "damaged"}
# By SQLite's extended result code, then by its primary code.
_BY_CODE: Final = {
    sqlite3.SQLITE_READONLY: "read-only",
    sqlite3.SQLITE_PERM: "a right is missing",
    sqlite3.SQLITE_AUTH: "a right is missing",
    sqlite3.SQLITE_BUSY: "locked",
    sqlite3.SQLITE_LOCKED: "locked",
    sqlite3.SQLITE_FULL: _FULL,
    sqlite3.SQLITE_CORRUPT: "damaged",
    sqlite3.SQLITE_NOTADB: "damaged",
    sqlite3.SQLITE_CANTOPEN: "the file cannot be opened",
    sqlite3.SQLITE_IOERR: "the disk fails",
    sqlite3.SQLITE_ERROR: "a table or a column is missing",
}
# SQLite's errors also reach us without SQLAlchemy, from the statements that begin a transaction.
_ERRORS: Final = (DBAPIError, PoolTimeout, sqlite3.Error)
_OF_ROWS: Final = (DataError, IntegrityError, sqlite3.DataError, sqlite3.IntegrityError)
# A write that the system refuses: over a quota (EDQUOT), or a file too large (EFBIG). SQLite
# reports only ENOSPC as SQLITE_FULL.
_REFUSED_WRITES: Final = frozenset(
    (
        sqlite3.SQLITE_IOERR_WRITE,
        sqlite3.SQLITE_IOERR_SHMSIZE,
        sqlite3.SQLITE_IOERR_TRUNCATE,
    )
)


def is_trouble(error: BaseException | None) -> bool:
    """Whether the database has failed, and not the values of a row."""
    return isinstance(error, _ERRORS) and not isinstance(error, _OF_ROWS)


def flush_failed(error: BaseException) -> bool:
    """Whether the system failed to read or flush SQLite's file: its cache cannot be trusted."""
    cause = getattr(error, "orig", None) or error
    return (
        sqlite.primary_code(cause) == sqlite3.SQLITE_IOERR
        and sqlite.extended_code(cause) not in _REFUSED_WRITES
    )


def reason_of(error: Exception) -> str:
    """What is wrong with the database, in a few words and without any value."""
    cause = getattr(error, "orig", None) or error
    state = getattr(cause, "sqlstate", None)
    if state:
        return _BY_STATE.get(state) or _BY_CLASS.get(state[:2], AWAY)
    if sqlite.extended_code(cause) in _REFUSED_WRITES:
        return _FULL
    return _BY_CODE.get(sqlite.primary_code(cause) or 0, AWAY)


def kind_of(error: Exception) -> str:
    """Class and code of a database error; its full message may quote values."""
    cause = getattr(error, "orig", None) or error
    code = getattr(cause, "sqlstate", None) or getattr(cause, "sqlite_errorname", None)
    return " ".join(filter(None, (type(cause).__name__, code)))
