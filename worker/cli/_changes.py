"""Changing rows one by one: each in a transaction of its own, each with a line that says so."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Protocol

import typer
from sqlmodel import Session

from worker.cli._output import complain, write
from worker.cli._store import opened, waking
from worker.maintenance.operator_actions import Refused


class Change(Protocol):
    """An operation on one row."""

    def __call__(self, session: Session, row_id: str, /, *, now: datetime) -> str | None:
        """Change the row, or raise :class:`Refused`; words in place of the usual ones, if any."""


def each(ids: Sequence[str], task: str | None, change: Change, *, done: str) -> None:
    """Change each row and wake ``task`` for it; exit code 1 if any was refused."""
    refused = False
    with opened() as store, waking() as waker:
        for row_id in dict.fromkeys(ids):
            try:
                with store.database.transaction() as session:
                    said = change(session, row_id, now=store.database.now(session))
            except Refused as why:
                complain(str(why))
                refused = True
                continue
            if waker is not None and task is not None:
                waker.wake(task, [row_id])
            write(f"{row_id} {said or done}")
    if refused:
        raise typer.Exit(1)
