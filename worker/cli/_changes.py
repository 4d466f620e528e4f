"""Changes rows one by one: one transaction and one line of output for each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime

import typer
from sqlmodel import Session

from worker.cli._output import write, write_error
from worker.cli._store import open_store, open_waker
from worker.maintenance.operator_actions import ActionRefused

# An action of ``worker.maintenance.operator_actions`` on the row with this id, at this time; it may
# return a message that replaces the default one.
Change = Callable[[Session, str, datetime], str | None]


def change_each(ids: Sequence[str], task: str | None, change: Change, *, done: str) -> None:
    """Change each row and wake ``task`` for it; exit code 1 if any was refused."""
    refused = False
    with open_store() as store, open_waker() as waker:
        for row_id in dict.fromkeys(ids):
            try:
                with store.database.transaction() as session:
                    message = change(session, row_id, store.database.now(session))
            except ActionRefused as error:
                write_error(str(error))
                refused = True
                continue
            if waker is not None and task is not None:
                waker.wake(task, [row_id])
            write(f"{row_id} {message or done}")
    if refused:
        raise typer.Exit(1)
