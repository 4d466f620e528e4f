"""Finding out that the database is back, and moving into it what took spool meanwhile."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import structlog
from sqlalchemy.exc import SQLAlchemyError

from receiver import queue
from receiver.database.engine import Database
from receiver.inbox.group_commit import GroupCommit
from receiver.inbox.spool import Spool
from receiver.queue import Waker

# While events take spool the database is tried this often, in seconds; otherwise the files that
# processes left behind are looked for, less often.
_TRIED_EVERY = 1.0
_LOOKED_EVERY = 15.0
_log = structlog.get_logger(__name__)


class SpoolDrainer:
    """Empties a spool into the database, for as long as it runs."""

    def __init__(
        self, spool: Spool, database: Database, group_commit: GroupCommit, waker: Waker
    ) -> None:
        self._spool = spool
        self._database = database
        self._group_commit = group_commit
        self._waker = waker
        # Of its own: a database that is frozen keeps it for as long as it is.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="drain")
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin, on the running loop, with what was left behind."""
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def close(self) -> None:
        """Stop; what is still sheltered stays where it is."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            if await loop.run_in_executor(self._thread, self._empty):
                self._group_commit.database_is_back()
            # What was on its way into the spool when the database came back is there by now.
            if self._group_commit.away.is_set() or not self._spool.is_empty():
                await asyncio.sleep(_TRIED_EVERY)
                continue
            with suppress(TimeoutError):
                async with asyncio.timeout(_LOOKED_EVERY):
                    await self._group_commit.away.wait()

    def _empty(self) -> bool:
        """Whether the database is there, and emptied the spool into it; runs in the thread."""
        moved = 0
        try:
            with self._database.transaction() as session:
                session.connection()  # a writer needs no less
            for ids in self._spool.drain(self._database):
                self._waker.wake(queue.HANDLE_EVENTS, ids)
                moved += len(ids)
        except SQLAlchemyError as error:
            _log.warning("spool.drain_interrupted", moved=moved, error=type(error).__name__)
            return False
        except Exception as error:  # noqa: BLE001 - whatever ails a file, the database is back
            _log.error("spool.drain_broke", moved=moved, error=type(error).__name__)
        if moved:
            _log.info("spool.drained", events=moved)
        return True
