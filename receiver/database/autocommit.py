"""Statements that are transactions of their own: one call to the database, one flush of the disk.

A transaction of several steps costs a turn of the interpreter's lock and, with PostgreSQL, a round
trip for each of them. Whoever has a single statement to run, again and again, is spared that.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError, OperationalError

from receiver.database import sqlite
from receiver.database.engine import Database

_Result = TypeVar("_Result")


class Autocommit:
    """Connections that commit each statement, kept open for the next one; for any thread."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._idle: deque[Connection] = deque()

    def run(self, work: Callable[[Connection], _Result]) -> _Result:
        """What ``work`` returns, which runs one statement on the connection that it is given.

        It is called once more if another process was writing to the same SQLite file, as soon as
        that is done. A connection that is broken is not used again.

        Raises:
            DBAPIError: of SQLAlchemy; then nothing was written, unless the connection was lost in
                that moment.
        """
        connection = self._taken()
        try:
            with self._database.turn:
                result = _in_turn(work, connection)
        except BaseException as error:
            # A statement that was refused leaves the connection as it was. It stays open: SQLite's
            # last one takes files along that cannot be made again while the disk is full.
            if isinstance(error, DBAPIError) and self._is_sound(connection):
                self._idle.append(connection)
            else:
                with suppress(Exception):  # it is broken, and its error is the one that counts
                    connection.close()
            raise
        self._idle.append(connection)
        return result

    def _is_sound(self, connection: Connection) -> bool:
        """Whether what runs on it next will be committed."""
        if connection.invalidated:
            return False
        return self._database.is_postgresql or not sqlite.driver_of(connection).in_transaction

    def close(self) -> None:
        """Close what is idle."""
        while self._idle:
            self._idle.pop().close()

    def _taken(self) -> Connection:
        with suppress(IndexError):
            return self._idle.pop()
        connection = self._database.committing_each()
        # It never goes back to the pool, whose connections wait in another way.
        connection.detach()
        if self._database.is_postgresql:
            # The same few statements again and again: to plan each anew takes half of their time.
            connection.exec_driver_sql("SET plan_cache_mode=force_generic_plan").close()
        else:
            connection.exec_driver_sql("PRAGMA busy_timeout=0").close()
        return connection


def _in_turn(work: Callable[[Connection], _Result], connection: Connection) -> _Result:
    try:
        return work(connection)
    except OperationalError as error:
        if not sqlite.is_busy(error.orig):
            raise
    sqlite.begin_in_turn(connection, look_seconds=sqlite.HASTY_LOOK_SECONDS)
    try:
        result = work(connection)
        connection.exec_driver_sql("COMMIT").close()
    except BaseException:
        with suppress(DBAPIError):  # some errors have ended it already
            connection.exec_driver_sql("ROLLBACK").close()
        raise
    return result
