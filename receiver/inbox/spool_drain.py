"""Detects that the database is back, and drains the spool into it."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress

import structlog
from sqlalchemy.exc import SQLAlchemyError

from receiver import queue
from receiver.daemon_threads import DaemonThreads
from receiver.database import probe
from receiver.database.engine import Database
from receiver.database.trouble import kind_of
from receiver.inbox.group_commit import GroupCommit
from receiver.inbox.spool import Spool
from receiver.queue import Waker

# How often the database is tried while events go to the spool.
_RETRY_SECONDS = 1.0
# How often the spool is opened again that could not be, and what the database refused is tried.
REOPEN_SECONDS = 60.0
# How often the directory is searched for files of dead processes otherwise.
_SCAN_SECONDS = 15.0
_log = structlog.get_logger(__name__)


class SpoolDrainer:
    """Drains a spool into the database, from start to close."""

    def __init__(
        self, spool: Spool, database: Database, group_commit: GroupCommit, waker: Waker
    ) -> None:
        self._spool = spool
        self._database = database
        self._group_commit = group_commit
        self._waker = waker
        # Not a shared pool: a frozen database blocks this thread for as long as it is frozen.
        self._thread = DaemonThreads(1, "drain")
        self._reopen_at = time.monotonic() + REOPEN_SECONDS
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Start on the running loop, with the files that dead processes left."""
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def close(self) -> None:
        """Stop; spooled events stay in their files."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            if await loop.run_in_executor(self._thread, self._drain):
                self._group_commit.database_recovered()
            # A batch that was in flight to the spool when the database recovered may be in the
            # file by now: check again.
            if self._group_commit.database_down.is_set() or not self._spool.is_empty():
                await asyncio.sleep(_RETRY_SECONDS)
                continue
            with suppress(TimeoutError):
                async with asyncio.timeout(min(_SCAN_SECONDS, REOPEN_SECONDS)):
                    await self._group_commit.database_down.wait()

    def _drain(self) -> bool:
        """Drain the spool; whether the database is up. Runs in the thread."""
        if time.monotonic() >= self._reopen_at:
            self._reopen_at = time.monotonic() + REOPEN_SECONDS
            self._spool.reopen()
        moved = 0
        try:
            probe.write(self._database)
            for ids in self._spool.drain(self._database):
                self._waker.wake(queue.HANDLE_EVENTS, ids)
                moved += len(ids)
        except SQLAlchemyError as error:
            _log.warning("spool.drain_interrupted", moved=moved, error=kind_of(error))
            return False
        except Exception as error:  # noqa: BLE001 - a bad spool file does not mean the database is down
            _log.error("spool.drain_failed", moved=moved, error=type(error).__name__)
        if moved:
            _log.info("spool.drained", events=moved)
        return True
