"""Group commit: requests that arrive while one transaction is written share the next one.

There is no timer: an idle receiver writes a single event at once, and a busy one writes many
events with one flush of the disk. Each request is answered after the commit that holds its event.
Threads do the writing, so a slow disk never blocks the event loop.

With a spool, events that the database does not store in time go to the spool, and so do all later
events until the database recovers. A database write that timed out may still succeed: an event
keeps its id, so writing it twice stores it once.
"""

from __future__ import annotations

import asyncio
import math
import os
import signal
import sqlite3
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from functools import partial

import structlog

from receiver.database import bulk, sqlite
from receiver.database.engine import TRANSIENT_ERRORS, Database
from receiver.errors import StoreUnavailable
from receiver.inbox import store as inbox
from receiver.inbox.pending import Deadlines, Outcome, PendingWrite
from receiver.inbox.spool import Spool
from receiver.inbox.store import InboxRow, IncomingEvent, StoreResult
from receiver.inbox.writer import InboxWriter
from receiver.vault.sealing import Vault

MAX_BATCH = bulk.MAX_ROWS
MAX_QUEUED = 4096
# A batch of this size starts at once; a smaller one first waits for requests that are arriving.
_MIN_FULL_BATCH = 32
# The database's deadline, after which the spool is tried; both fit into a request's deadline.
DATABASE_SECONDS = 4.0
# PostgreSQL can write one batch while another is on its way; SQLite has one writer.
_BATCHES_IN_FLIGHT = {"postgresql": 2, "sqlite": 1}
_CLOSE_SECONDS = 5.0
_log = structlog.get_logger(__name__)


class _DatabaseDown(Exception):
    """The database failed, and there is a spool; ``disk_failed`` if a disk operation failed."""

    def __init__(self, *, disk_failed: bool) -> None:
        super().__init__()
        self.disk_failed = disk_failed


def _stop_process() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


class GroupCommit:
    """Stores events for the requests of one event loop.

    ``database_down`` is set while events go to the spool. ``stop`` shuts the process down
    gracefully after a failed flush: the system's cache of that file cannot be trusted any more.
    """

    def __init__(
        self,
        database: Database,
        vault: Vault,
        spool: Spool | None = None,
        stop: Callable[[], None] = _stop_process,
    ) -> None:
        self._inbox = InboxWriter(database)
        self._vault = vault
        self._spool = spool
        self._stop = stop
        self.database_down = asyncio.Event()
        self._max_in_flight = _BATCHES_IN_FLIGHT[
            "postgresql" if database.is_postgresql else "sqlite"
        ]
        self._writers = ThreadPoolExecutor(self._max_in_flight, thread_name_prefix="group_commit")
        self._spool_writer = ThreadPoolExecutor(1, thread_name_prefix="spool")
        self._queue: deque[PendingWrite] = deque()
        self._deadlines = Deadlines()
        self._running: set[Future[list[Outcome]]] = set()
        self._in_flight = 0
        self._spool_busy = False
        self._start_scheduled = False
        self._closed = False

    async def store(self, incoming: IncomingEvent, deadline: float = math.inf) -> StoreResult:
        """Store ``incoming``; returns only when it is on durable storage.

        Raises:
            StoreUnavailable: it could not be written, or not by ``deadline`` of the monotonic
                clock, or the queue is full.
        """
        future: asyncio.Future[StoreResult] = asyncio.get_running_loop().create_future()
        self.submit(incoming, partial(_resolve, future), deadline)
        return await future

    def submit(
        self,
        incoming: IncomingEvent,
        callback: Callable[[Outcome], None],
        deadline: float = math.inf,
    ) -> None:
        """Store ``incoming`` without waiting; the event loop calls ``callback`` once, later.

        Raises:
            StoreUnavailable: the queue is full; ``callback`` will not be called.
        """
        if self._closed:
            raise StoreUnavailable("the receiver is stopping")
        if len(self._queue) >= MAX_QUEUED:
            raise StoreUnavailable("too many events are waiting to be stored")
        pending = PendingWrite(incoming, callback)
        self._queue.append(pending)
        if deadline < math.inf:
            self._deadlines.add(pending, deadline)
        self._schedule_start()

    def database_recovered(self) -> None:
        """Write to the database again. Call it from the loop's own thread."""
        if self.database_down.is_set():
            _log.info("group_commit.database_recovered")
            self.database_down.clear()
            self._start_batches()

    def close(self) -> None:
        """Wait up to five seconds for batches in flight; refuse queued and later requests."""
        self._closed = True
        wait(self._running.copy(), _CLOSE_SECONDS)
        for executor in (self._writers, self._spool_writer):
            executor.shutdown(wait=False)
        self._inbox.close()
        while self._queue:
            self._queue.popleft().complete(StoreUnavailable("the receiver is stopping"))
        self._deadlines.close()

    def _schedule_start(self) -> None:
        is_free = (
            not self._spool_busy
            if self.database_down.is_set()
            else self._in_flight < self._max_in_flight
        )
        if self._queue and is_free and not self._start_scheduled:
            self._start_scheduled = True
            asyncio.get_running_loop().call_soon(self._collect, 0)

    def _collect(self, before: int) -> None:
        """Start when an iteration of the loop has added no request, or the batch is large enough.

        Requests that are already in the socket buffers join the batch: a batch costs as much as
        ten more rows in it.
        """
        queued = len(self._queue)
        if before < queued < _MIN_FULL_BATCH:
            asyncio.get_running_loop().call_soon(self._collect, queued)
        else:
            self._start_scheduled = False
            self._start_batches()

    def _start_batches(self) -> None:
        while self._queue:
            if self._spool is not None and self.database_down.is_set():
                if self._spool_busy:
                    return
                self._start_spool_batch(self._spool)
            elif self._in_flight < self._max_in_flight:
                self._start_batch()
            else:
                return

    def _start_batch(self) -> None:
        self._in_flight += 1
        batch = self._next_batch()
        # Sealing in the writer's thread would compete with the loop for the interpreter's lock.
        # The writer's thread repeats and reports what fails here.
        with suppress(Exception):
            self._prepare(batch)
        timeout = asyncio.get_running_loop().call_later(DATABASE_SECONDS, self._time_out, batch)
        written = self._run(self._writers.submit(self._write, batch))
        written.add_done_callback(partial(self._finish_batch, batch, timeout))

    def _start_spool_batch(self, spool: Spool) -> None:
        self._spool_busy = True
        batch = self._next_batch()
        written = self._run(self._spool_writer.submit(self._write_to_spool, spool, batch))
        written.add_done_callback(partial(self._finish_spool_batch, batch))

    def _run(self, running: Future[list[Outcome]]) -> asyncio.Future[list[Outcome]]:
        self._running.add(running)
        running.add_done_callback(self._running.discard)
        return asyncio.wrap_future(running)

    def _next_batch(self) -> list[PendingWrite]:
        size = min(MAX_BATCH, len(self._queue))
        return [self._queue.popleft() for _ in range(size)]

    def _finish_batch(
        self,
        batch: Sequence[PendingWrite],
        timeout: asyncio.TimerHandle,
        written: asyncio.Future[list[Outcome]],
    ) -> None:
        timeout.cancel()
        self._in_flight -= 1
        error = None if written.cancelled() else written.exception()
        if isinstance(error, _DatabaseDown):
            self._divert_to_spool(batch)
            if error.disk_failed:
                self._stop()
        else:
            self._complete(batch, written)
        self._schedule_start()

    def _finish_spool_batch(
        self, batch: Sequence[PendingWrite], written: asyncio.Future[list[Outcome]]
    ) -> None:
        self._spool_busy = False
        self._complete(batch, written)
        self._start_batches()

    def _complete(
        self, batch: Sequence[PendingWrite], written: asyncio.Future[list[Outcome]]
    ) -> None:
        for pending, outcome in zip(batch, _outcomes(written, len(batch)), strict=True):
            pending.complete(outcome)
        self._deadlines.discard_completed()

    def _time_out(self, batch: Sequence[PendingWrite]) -> None:
        if self._spool is not None:
            _log.warning(
                "group_commit.database_timed_out", events=len(batch), seconds=DATABASE_SECONDS
            )
            self._divert_to_spool(batch)
            self._start_batches()

    def _divert_to_spool(self, batch: Sequence[PendingWrite]) -> None:
        self.database_down.set()
        incomplete = (pending for pending in reversed(batch) if pending.callback is not None)
        self._queue.extendleft(incomplete)

    def _write(self, batch: Sequence[PendingWrite]) -> list[Outcome]:
        """Write a batch in one commit, or, if a row is refused, each row in its own.

        Runs in a writer's thread.
        """
        try:
            return [*self._inbox.write(self._prepare(batch))]
        except Exception as error:  # noqa: BLE001 - drivers raise more than SQLAlchemy wraps
            _log.warning(
                "group_commit.commit_failed", events=len(batch), error=type(error).__name__
            )
            refused: list[Outcome] = [
                StoreUnavailable("the database did not take the event") for _ in batch
            ]
            if isinstance(error, TRANSIENT_ERRORS):  # the database has failed, not a single row
                disk_failed = _disk_failed(error)
                if self._spool is not None:
                    raise _DatabaseDown(disk_failed=disk_failed) from None
                if disk_failed:
                    self._stop()
                return refused
            if len(batch) == 1:
                return refused
        # One of the rows is at fault; the others are stored.
        return [outcome for each in batch for outcome in self._write([each])]

    def _write_to_spool(self, spool: Spool, batch: Sequence[PendingWrite]) -> list[Outcome]:
        """Runs in the spool's thread."""
        try:
            return [*spool.store(self._prepare(batch))]
        except StoreUnavailable as refused:
            return [refused for _ in batch]

    def _prepare(self, batch: Sequence[PendingWrite]) -> list[InboxRow]:
        """The batch's rows, prepared once, so that each keeps its id in database and spool."""
        unprepared = [pending for pending in batch if pending.row is None]
        rows = inbox.prepare(self._vault, [pending.incoming for pending in unprepared])
        for pending, row in zip(unprepared, rows, strict=True):
            pending.row = row
        return [pending.row for pending in batch if pending.row is not None]


def _outcomes(written: asyncio.Future[list[Outcome]], size: int) -> Sequence[Outcome]:
    error = None if written.cancelled() else written.exception()
    if not written.cancelled() and error is None:
        return written.result()
    _log.error("group_commit.write_failed", error=type(error).__name__)
    return [StoreUnavailable("the event could not be stored")] * size


def _resolve(future: asyncio.Future[StoreResult], outcome: Outcome) -> None:
    if future.done():  # the request was cancelled
        return
    if isinstance(outcome, StoreUnavailable):
        future.set_exception(outcome)
    else:
        future.set_result(outcome)


def _disk_failed(error: Exception) -> bool:
    """Whether the system failed to read, write or flush SQLite's file."""
    return sqlite.primary_code(getattr(error, "orig", None)) == sqlite3.SQLITE_IOERR
