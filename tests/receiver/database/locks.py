"""A write lock on the inbox, as another process holds it: it blocks writers, not readers."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager

import psycopg


@contextmanager
def inbox_locked(url: str) -> Iterator[None]:
    """Hold a write lock on the inbox until the block ends."""
    if url.startswith("sqlite:///"):
        path = url.removeprefix("sqlite:///")
        # The block may end in another thread.
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
