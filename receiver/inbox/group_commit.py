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
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, wait
from functools import partial

import structlog

from receiver.daemon_threads import DaemonThreads
from receiver.database import bulk
from receiver.database.engine import Database
from receiver.database.trouble import flush_failed, is_trouble, kind_of
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
    """The database is in trouble, and there is a spool; ``flush_failed`` if a flush failed."""

    def __init__(self, *, flush_failed: bool) -> None:
        super().__init__()
        self.flush_failed = flush_failed


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
        self._writers = DaemonThreads(self._max_in_flight, "group_commit")
        self._spool_writer = DaemonThreads(1, "spool")
        self._queue: deque[PendingWrite] = deque()
        self._deadlines = Deadlines(on_expired=self._drop_answered)
        self._running: dict[Future[list[Outcome]], Sequence[PendingWrite]] = {}
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
        """Wait up to five seconds for batches in flight; refuse queued and later requests.

        A batch whose requests are all answered is not waited for: the database may be frozen.
        """
        self._closed = True
        awaited = [running for running, batch in self._running.copy().items() if _unanswered(batch)]
        wait(awaited, _CLOSE_SECONDS)
        for threads in (self._writers, self._spool_writer):
            threads.shutdown(wait=False)
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
        batch = self._next_batch()
        # Sealing in the writer's thread would compete with the loop for the interpreter's lock.
        rows = self._prepare(batch)
        if not rows:
            return
        self._in_flight += 1
        timeout = asyncio.get_running_loop().call_later(DATABASE_SECONDS, self._time_out, batch)
        written = self._run(self._writers.submit(self._write, rows), batch)
        written.add_done_callback(partial(self._finish_batch, batch, timeout))

    def _start_spool_batch(self, spool: Spool) -> None:
        batch = self._next_batch()
        rows = self._prepare(batch)
        if not rows:
            return
        self._spool_busy = True
        written = self._run(self._spool_writer.submit(self._write_to_spool, spool, rows), batch)
        written.add_done_callback(partial(self._finish_spool_batch, batch))

    def _run(
        self, running: Future[list[Outcome]], batch: Sequence[PendingWrite]
    ) -> asyncio.Future[list[Outcome]]:
        self._running[running] = batch
        running.add_done_callback(lambda done: self._running.pop(done, None))
        return asyncio.wrap_future(running)

    def _next_batch(self) -> list[PendingWrite]:
        size = min(MAX_BATCH, len(self._queue))
        batch = [self._queue.popleft() for _ in range(size)]
        return [pending for pending in batch if not pending.answered]

    def _drop_answered(self) -> None:
        """Remove the requests at the head of the queue whose deadline has passed."""
        while self._queue and self._queue[0].answered:
            self._queue.popleft()

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
            if error.flush_failed:
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
        if self._has_spool():
            _log.warning(
                "group_commit.database_timed_out", events=len(batch), seconds=DATABASE_SECONDS
            )
            self._divert_to_spool(batch)
            self._start_batches()

    def _divert_to_spool(self, batch: Sequence[PendingWrite]) -> None:
        self.database_down.set()
        self._queue.extendleft(pending for pending in reversed(batch) if not pending.answered)

    def _has_spool(self) -> bool:
        return self._spool is not None and self._spool.is_open

    def _write(self, rows: Sequence[InboxRow]) -> list[Outcome]:
        """Write a batch in one commit, or, if a row is refused, each row in its own.

        Runs in a writer's thread.
        """
        try:
            return [*self._inbox.write(rows)]
        except Exception as error:  # noqa: BLE001 - drivers raise more than SQLAlchemy wraps
            _log.warning("group_commit.commit_failed", events=len(rows), error=kind_of(error))
            refused: list[Outcome] = [
                StoreUnavailable("the database did not take the event") for _ in rows
            ]
            if is_trouble(error):
                failed = flush_failed(error)
                if self._has_spool():
                    raise _DatabaseDown(flush_failed=failed) from None
                if failed:
                    self._stop()
                return refused
            if len(rows) == 1:
                return refused
        # One of the rows is at fault; the others are stored.
        return [outcome for each in rows for outcome in self._write([each])]

    def _write_to_spool(self, spool: Spool, rows: Sequence[InboxRow]) -> list[Outcome]:
        """Runs in the spool's thread."""
        try:
            return [*spool.store(rows)]
        except StoreUnavailable as refused:
            return [refused for _ in rows]

    def _prepare(self, batch: list[PendingWrite]) -> list[InboxRow]:
        """The batch's rows, prepared once, so that each keeps its id in database and spool.

        An event that cannot be prepared is refused, and leaves the batch.
        """
        unprepared = [pending for pending in batch if pending.row is None]
        try:
            self._prepare_all(unprepared)
        except Exception:  # noqa: BLE001 - a bug about one event must not refuse the others
            for pending in unprepared:
                self._prepare_or_refuse(pending)
        batch[:] = [pending for pending in batch if pending.row is not None]
        return [pending.row for pending in batch if pending.row is not None]

    def _prepare_all(self, unprepared: Sequence[PendingWrite]) -> None:
        incoming = [each.incoming for each in unprepared if each.incoming is not None]
        for pending, row in zip(unprepared, inbox.prepare(self._vault, incoming), strict=True):
            pending.row = row

    def _prepare_or_refuse(self, pending: PendingWrite) -> None:
        try:
            self._prepare_all([pending])
        except Exception as error:  # noqa: BLE001 - as above
            _log.error("group_commit.prepare_failed", error=type(error).__name__)
            pending.complete(StoreUnavailable("the event could not be stored"))


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


def _unanswered(batch: Sequence[PendingWrite]) -> bool:
    return any(not pending.answered for pending in batch)
