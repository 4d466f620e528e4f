"""Changing rows one by one: each in a transaction of its own, each with a line that says so."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Protocol

import typer
from sqlmodel import Session

from receiver.queue import HANDLE_EVENTS
from worker.cli._output import complain, write
from worker.cli._store import opened, waking
from worker.followups import Planner
from worker.operations import Refused


class Change(Protocol):
    """An operation on one row."""

    def __call__(self, session: Session, row_id: str, /, *, now: datetime) -> None:
        """Change the row, or raise :class:`Refused`."""


def each(ids: Sequence[str], task: str | None, change: Change, *, done: str) -> None:
    """Change each row and wake ``task`` for it; exit code 1 if any was refused."""

    def planned_change(planner: Planner, row_id: str) -> list[str]:
        change(planner.session, row_id, now=planner.now)
        return [row_id] if task is not None else []

    planned(ids, planned_change, task=task or HANDLE_EVENTS, done=done)


def planned(
    ids: Sequence[str],
    change: Callable[[Planner, str], list[str]],
    *,
    done: str,
    task: str = HANDLE_EVENTS,
) -> None:
    """Like :func:`each`, for a change that plans more than it writes itself.

    ``change`` returns the rows to wake ``task`` for.
    """
    refused = False
    with opened() as store, waking() as waker:
        for row_id in dict.fromkeys(ids):
            try:
                with store.database.transaction() as session:
                    planner = Planner(session, store.database.now(session))
                    rows = change(planner, row_id)
            except Refused as why:
                complain(str(why))
                refused = True
                continue
            if waker is not None:
                planner.wake(waker)
                waker.wake(task, rows)
            write(f"{row_id} {done}")
    if refused:
        raise typer.Exit(1)
