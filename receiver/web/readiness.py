"""Whether the parts that a webhook needs are there, asked of them and not guessed."""

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

CHECK_SECONDS = 2.0
_Answer = TypeVar("_Answer")


class Readiness:
    """What the database and the broker say of themselves.

    ``has_spool`` says whether webhooks are taken while the database is away.
    """

    def __init__(self, database: Database, waker: Waker, *, has_spool: bool = False) -> None:
        self.has_spool = has_spool
        self._store = _Question(partial(_check_store, database), otherwise=(False, False))
        self._broker = _Question(partial(queue.reachable, waker.app), otherwise=False)

    async def parts(self) -> dict[str, bool]:
        """Each part, and whether it answered within two seconds."""
        (stores, works), broker = await asyncio.gather(self._store.ask(), self._broker.ask())
        return {"database": stores, "broker": broker, "worker": works}


class _Question(Generic[_Answer]):
    """One question to one part, on its way once at most, however many want to know.

    A part that hangs so keeps one thread and one connection; a stranger who asks a thousand times
    takes no more from the requests that matter.
    """

    def __init__(self, check: Callable[[], _Answer], *, otherwise: _Answer) -> None:
        self._check = check
        self._otherwise = otherwise
        self._asked: asyncio.Task[_Answer] | None = None

    async def ask(self) -> _Answer:
        if self._asked is None or self._asked.done():
            self._asked = asyncio.create_task(asyncio.to_thread(self._check))
        try:
            async with asyncio.timeout(CHECK_SECONDS):
                return await asyncio.shield(self._asked)
        except TimeoutError:
            return self._otherwise


def _check_store(database: Database) -> tuple[bool, bool]:
    """Whether the database answers, and whether a worker lately wrote to it."""
    try:
        with database.reading() as session:
            return True, heartbeats.alive(session, "worker", database.now(session))
    except SQLAlchemyError:
        return False, False
