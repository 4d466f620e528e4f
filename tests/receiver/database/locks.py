"""Another process's lock on the inbox: whoever writes waits, whoever reads does not."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager

import psycopg


@contextmanager
def inbox_locked(url: str) -> Iterator[None]:
    """Hold the lock until the block ends."""
    if url.startswith("sqlite:///"):
        path = url.removeprefix("sqlite:///")
        # Another thread may end the block.
        with closing(sqlite3.connect(path, check_same_thread=False)) as connection:
            connection.isolation_level = None
            connection.execute("BEGIN IMMEDIATE")
            yield
            connection.execute("ROLLBACK")
    else:
        with psycopg.connect(url) as connection:
            connection.execute("LOCK TABLE inbox_events IN EXCLUSIVE MODE")
            yield
            connection.rollback()
