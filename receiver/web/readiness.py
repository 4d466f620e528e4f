"""Readiness: checks that the database takes writes, and that the broker and a worker respond."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from time import monotonic
from typing import Generic, TypeVar

from sqlalchemy.exc import SQLAlchemyError

from receiver import queue
from receiver.daemon_threads import DaemonThreads
from receiver.database import heartbeats, probe
from receiver.database.compatibility import Watch
from receiver.database.engine import Database
from receiver.database.trouble import AWAY, reason_of
from receiver.inbox.spool import Spool
from receiver.queue import Waker

CHECK_TIMEOUT_SECONDS = 2.0
# The database is written to at most this often, however many requests ask.
WRITE_SECONDS = 1.0
SCHEMA_SECONDS = 5.0
OK = "ok"
_Result = TypeVar("_Result")


@dataclass(frozen=True, slots=True)
class State:
    """Each part's state by its name: ``ok``, or what is wrong with it.

    The part ``spool`` is there only if something is wrong with it. ``accepting`` says whether
    webhooks are stored durably.
    """

    parts: dict[str, str]
    accepting: bool

    @property
    def status(self) -> str:
        """``ok``, ``degraded`` or ``unready``."""
        if not self.accepting:
            return "unready"
        return OK if all(part == OK for part in self.parts.values()) else "degraded"


class Readiness:
    """The state of the parts that a webhook needs; with a spool, the database is not needed."""

    def __init__(self, database: Database, waker: Waker, spool: Spool | None = None) -> None:
        self._spool = spool
        schema = Watch(database)
        self._database = _SharedCheck(
            partial(_check_database, database), (AWAY, AWAY), "database", every=WRITE_SECONDS
        )
        self._schema = _SharedCheck[str | None](schema.misfit, None, "schema")
        self._watching: asyncio.Task[None] | None = None
        self._broker = _SharedCheck(partial(queue.reachable, waker.app), False, "broker")

    async def check(self) -> State:
        """Check each part, for at most two seconds."""
        (database, worker), broker, misfit = await asyncio.gather(
            self._database.run(), self._broker.run(), self._schema.run()
        )
        parts = {"database": database, "broker": OK if broker else AWAY, "worker": worker}
        if self._spool is not None and self._spool.reason is not None:
            parts["spool"] = self._spool.reason
        has_spool = self._spool is not None and "spool" not in parts
        if misfit is not None:
            return State(parts | {"database": misfit}, accepting=False)
        return State(parts, accepting=database == OK or has_spool)

    def start(self) -> None:
        """Watch the schema on the running loop, so that the log tells of a misfit unasked."""
        self._watching = asyncio.get_running_loop().create_task(self._watch())

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(SCHEMA_SECONDS)
            await self._schema.run()

    async def close(self) -> None:
        """Stop; wait for no check."""
        if self._watching is not None:
            self._watching.cancel()
            with suppress(asyncio.CancelledError):
                await self._watching
        self._schema.close()
        self._database.close()
        self._broker.close()


class _SharedCheck(Generic[_Result]):
    """A blocking check that runs at most once at a time; concurrent callers share its result.

    A hanging part then costs one thread and one connection, however many requests ask for it:
    a flood of readiness requests takes nothing from webhooks. A result is valid for ``every``
    seconds.
    """

    def __init__(
        self, check: Callable[[], _Result], fallback: _Result, name: str, *, every: float = 0.0
    ) -> None:
        self._check = check
        self._fallback = fallback
        self._every = every
        self._thread = DaemonThreads(1, f"check_{name}")
        self._running: asyncio.Future[_Result] | None = None
        self._next_at = 0.0

    async def run(self) -> _Result:
        """Return the result, or the fallback after two seconds."""
        if self._running is None or (self._running.done() and monotonic() >= self._next_at):
            loop = asyncio.get_running_loop()
            self._running = loop.run_in_executor(self._thread, self._check)
            self._next_at = monotonic() + self._every
        try:
            async with asyncio.timeout(CHECK_TIMEOUT_SECONDS):
                return await asyncio.shield(self._running)
        except TimeoutError:
            return self._fallback

    def close(self) -> None:
        """End the thread once its check is over."""
        self._thread.shutdown(wait=False)


def _check_database(database: Database) -> tuple[str, str]:
    """The state of the database, which has to write, and that of the workers by their heartbeat."""
    wrong = probe.reason(database)
    try:
        with database.reading() as session:
            alive = heartbeats.alive(session, "worker", database.now(session))
    except SQLAlchemyError as error:
        return wrong or reason_of(error), AWAY
    return wrong or OK, OK if alive else AWAY
