"""Readiness: checks that the database, the broker and a worker respond."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Generic, TypeVar

from sqlalchemy.exc import SQLAlchemyError

from receiver import queue
from receiver.database import heartbeats
from receiver.database.engine import Database
from receiver.queue import Waker

CHECK_TIMEOUT_SECONDS = 2.0
_Result = TypeVar("_Result")


class Readiness:
    """The state of the parts that a webhook needs.

    ``has_spool``: webhooks are accepted while the database is away.
    """

    def __init__(self, database: Database, waker: Waker, *, has_spool: bool = False) -> None:
        self.has_spool = has_spool
        self._database = _SharedCheck(partial(_check_database, database), fallback=(False, False))
        self._broker = _SharedCheck(partial(queue.reachable, waker.app), fallback=False)

    async def check(self) -> dict[str, bool]:
        """Return whether each part responded within two seconds, by its name."""
        (database, worker), broker = await asyncio.gather(self._database.run(), self._broker.run())
        return {"database": database, "broker": broker, "worker": worker}


class _SharedCheck(Generic[_Result]):
    """A blocking check that runs at most once at a time; concurrent callers share its result.

    A hanging part then costs one thread and one connection, however many requests ask for it:
    a flood of readiness requests takes nothing from webhooks.
    """

    def __init__(self, check: Callable[[], _Result], *, fallback: _Result) -> None:
        self._check = check
        self._fallback = fallback
        self._task: asyncio.Task[_Result] | None = None

    async def run(self) -> _Result:
        """Return the result, or the fallback after two seconds."""
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(asyncio.to_thread(self._check))
        try:
            async with asyncio.timeout(CHECK_TIMEOUT_SECONDS):
                return await asyncio.shield(self._task)
        except TimeoutError:
            return self._fallback


def _check_database(database: Database) -> tuple[bool, bool]:
    """Return whether the database responds, and whether a worker's heartbeat in it is recent."""
    try:
        with database.reading() as session:
            return True, heartbeats.alive(session, "worker", database.now(session))
    except SQLAlchemyError:
        return False, False
