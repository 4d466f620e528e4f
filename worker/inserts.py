"""Rows that are inserted unless they are there already: one by one, or put together.

Within :func:`gathering` they are written at its end, with one statement for each table, since most
of what a row costs is its statement.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Table
from sqlmodel import Session

from receiver.database import insert_once, insert_unless_taken

_GATHERED = "codecatch_gathered"
_Rows = dict[Table, list[Mapping[str, Any]]]


def insert(session: Session, table: Table, values: Mapping[str, object]) -> None:
    """Insert a row unless one of its unique keys is taken; while rows are gathered, later."""
    gathered: _Rows | None = session.info.get(_GATHERED)
    if gathered is None:
        insert_once(session, table, values)
    else:
        gathered.setdefault(table, []).append(values)


@contextmanager
def gathering(session: Session) -> Iterator[None]:
    """Put together what is inserted meanwhile, for those who need not read it back."""
    gathered: _Rows = {}
    session.info[_GATHERED] = gathered
    try:
        yield
    finally:
        del session.info[_GATHERED]
    session.flush()  # what the rows refer to
    for table, rows in gathered.items():
        session.connection().execute(insert_unless_taken(session, table), rows)


def insert_all(session: Session, table: Table, rows: Sequence[Mapping[str, Any]]) -> set[str]:
    """Insert those of ``rows`` whose unique keys are free; their primary keys.

    Two transactions that insert equal keys in another order deadlock on PostgreSQL: whoever may
    meet another sorts the rows.
    """
    if not rows:
        return set()
    statement = insert_unless_taken(session, table).returning(*table.primary_key.columns)
    return set(session.connection().scalars(statement, rows))
