"""Group commit: requests that arrive while one transaction is written share the next one.

There is no timer: an idle receiver writes a lone event at once, a busy one writes many events
with one flush of the disk. Each request is answered after the commit that holds its event. The
writing happens in threads, so that a slow disk never holds the event loop.

With a spool, what the database does not take in time goes there instead, and so does everything
that follows, until somebody says that the database is back. An attempt that is still under way
may succeed all the same: an event keeps its id, so that writing it twice is writing it once.
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
from receiver.database.engine import TROUBLE, Database
from receiver.errors import StoreUnavailable
from receiver.inbox import store as inbox
from receiver.inbox.pending import Deadlines, Outcome, PendingWrite
from receiver.inbox.spool import Spool
from receiver.inbox.store import InboxRow, IncomingEvent, StoreResult
from receiver.inbox.writer import InboxWriter
from receiver.vault.sealing import Vault

LARGEST_BATCH = bulk.MOST_ROWS
DEEPEST_QUEUE = 4096
# So many waiting events are written without a look whether more have come already.
_ENOUGH = 32
# What the database may take before the spool is asked; both fit into a request's deadline.
DATABASE_SECONDS = 4.0
# PostgreSQL can write one batch while another is on its way; SQLite has one writer.
_BATCHES_IN_FLIGHT = {"postgresql": 2, "sqlite": 1}
_CLOSE_SECONDS = 5.0
_log = structlog.get_logger(__name__)


class _DatabaseAway(Exception):
    """The database is in trouble, and there is a spool; ``disk_failed`` if a flush did."""

    def __init__(self, *, disk_failed: bool) -> None:
        super().__init__()
        self.disk_failed = disk_failed


def _stop_process() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


class GroupCommit:
    """The way into the inbox for one event loop.

    ``away`` is set while events go to the spool. ``stop`` ends the process in good order: what
    the system still holds of a file whose flush has failed cannot be trusted any more.
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
        self.away = asyncio.Event()
        self._flights = _BATCHES_IN_FLIGHT["postgresql" if database.is_postgresql else "sqlite"]
        self._writers = ThreadPoolExecutor(self._flights, thread_name_prefix="group_commit")
        self._spool_writer = ThreadPoolExecutor(1, thread_name_prefix="spool")
        self._waiting: deque[PendingWrite] = deque()
        self._deadlines = Deadlines()
        self._running: set[Future[list[Outcome]]] = set()
        self._flying = 0
        self._spooling = False
        self._about_to_launch = False
        self._closed = False

    async def store(self, incoming: IncomingEvent, deadline: float = math.inf) -> StoreResult:
        """Where ``incoming`` ended; returns only when that is on durable storage.

        Raises:
            StoreUnavailable: it could not be written, or not by ``deadline`` of the monotonic
                clock, or too many are waiting already.
        """
        future: asyncio.Future[StoreResult] = asyncio.get_running_loop().create_future()
        self.put(incoming, partial(_resolve, future), deadline)
        return await future

    def put(
        self, incoming: IncomingEvent, tell: Callable[[Outcome], None], deadline: float = math.inf
    ) -> None:
        """The same without waiting: ``tell`` is called once, later, from the event loop.

        Raises:
            StoreUnavailable: too many are waiting already; nobody will be told.
        """
        if self._closed:
            raise StoreUnavailable("the receiver is stopping")
        if len(self._waiting) >= DEEPEST_QUEUE:
            raise StoreUnavailable("too many events are waiting to be stored")
        waiting = PendingWrite(incoming, tell)
        self._waiting.append(waiting)
        if deadline < math.inf:
            self._deadlines.add(waiting, deadline)
        self._launch_soon()

    def database_is_back(self) -> None:
        """Write to the database again; from the loop's own thread."""
        if self.away.is_set():
            _log.info("group_commit.database_back")
            self.away.clear()
            self._launch()

    def close(self) -> None:
        """Wait a while for what is being written; what is still waiting, or comes, is refused."""
        self._closed = True
        wait(self._running.copy(), _CLOSE_SECONDS)
        for executor in (self._writers, self._spool_writer):
            executor.shutdown(wait=False)
        self._inbox.close()
        while self._waiting:
            self._waiting.popleft().end(StoreUnavailable("the receiver is stopping"))
        self._deadlines.close()

    def _launch_soon(self) -> None:
        can = not self._spooling if self.away.is_set() else self._flying < self._flights
        if self._waiting and can and not self._about_to_launch:
            self._about_to_launch = True
            asyncio.get_running_loop().call_soon(self._gather, 0)

    def _gather(self, before: int) -> None:
        """Launch when a step of the loop has brought nothing more, or enough is there.

        What the system holds already comes along: a batch costs as much as ten rows more of it.
        """
        waiting = len(self._waiting)
        if before < waiting < _ENOUGH:
            asyncio.get_running_loop().call_soon(self._gather, waiting)
        else:
            self._about_to_launch = False
            self._launch()

    def _launch(self) -> None:
        while self._waiting:
            if self._spool is not None and self.away.is_set():
                if self._spooling:
                    return
                self._fly_to_spool(self._spool)
            elif self._flying < self._flights:
                self._fly()
            else:
                return

    def _fly(self) -> None:
        self._flying += 1
        batch = self._next_batch()
        # Here and not in the writer's thread, which would take turns with the loop all the time;
        # what goes wrong here does so again there, where it is answered for.
        with suppress(Exception):
            self._prepared(batch)
        overdue = asyncio.get_running_loop().call_later(DATABASE_SECONDS, self._give_up_on, batch)
        written = self._run(self._writers.submit(self._write, batch))
        written.add_done_callback(partial(self._landed, batch, overdue))

    def _fly_to_spool(self, spool: Spool) -> None:
        self._spooling = True
        batch = self._next_batch()
        written = self._run(self._spool_writer.submit(self._write_to, spool, batch))
        written.add_done_callback(partial(self._spooled, batch))

    def _run(self, running: Future[list[Outcome]]) -> asyncio.Future[list[Outcome]]:
        self._running.add(running)
        running.add_done_callback(self._running.discard)
        return asyncio.wrap_future(running)

    def _next_batch(self) -> list[PendingWrite]:
        size = min(LARGEST_BATCH, len(self._waiting))
        return [self._waiting.popleft() for _ in range(size)]

    def _landed(
        self,
        batch: Sequence[PendingWrite],
        overdue: asyncio.TimerHandle,
        written: asyncio.Future[list[Outcome]],
    ) -> None:
        overdue.cancel()
        self._flying -= 1
        error = None if written.cancelled() else written.exception()
        if isinstance(error, _DatabaseAway):
            self._take_to_spool(batch)
            if error.disk_failed:
                self._stop()
        else:
            self._tell(batch, written)
        self._launch_soon()

    def _spooled(
        self, batch: Sequence[PendingWrite], written: asyncio.Future[list[Outcome]]
    ) -> None:
        self._spooling = False
        self._tell(batch, written)
        self._launch()

    def _tell(self, batch: Sequence[PendingWrite], written: asyncio.Future[list[Outcome]]) -> None:
        for waiting, outcome in zip(batch, _outcomes(written, len(batch)), strict=True):
            waiting.end(outcome)
        self._deadlines.drop_told()

    def _give_up_on(self, batch: Sequence[PendingWrite]) -> None:
        if self._spool is not None:
            _log.warning(
                "group_commit.database_silent", events=len(batch), seconds=DATABASE_SECONDS
            )
            self._take_to_spool(batch)
            self._launch()

    def _take_to_spool(self, batch: Sequence[PendingWrite]) -> None:
        self.away.set()
        self._waiting.extendleft(w for w in reversed(batch) if w.tell is not None)

    def _write(self, batch: Sequence[PendingWrite]) -> list[Outcome]:
        """Runs in a writer thread: all of a batch in one commit, or each for itself."""
        try:
            return [*self._inbox.write(self._prepared(batch))]
        except Exception as error:  # noqa: BLE001 - drivers raise more than SQLAlchemy wraps
            _log.warning(
                "group_commit.commit_failed", events=len(batch), error=type(error).__name__
            )
            refused: list[Outcome] = [
                StoreUnavailable("the database did not take the event") for _ in batch
            ]
            if isinstance(error, TROUBLE):  # the database, and not one of the rows, has failed
                disk_failed = _disk_failed(error)
                if self._spool is not None:
                    raise _DatabaseAway(disk_failed=disk_failed) from None
                if disk_failed:
                    self._stop()
                return refused
            if len(batch) == 1:
                return refused
        # One of them is to blame: the others must not suffer for it.
        return [outcome for each in batch for outcome in self._write([each])]

    def _write_to(self, spool: Spool, batch: Sequence[PendingWrite]) -> list[Outcome]:
        """Runs in the spool's thread."""
        try:
            return [*spool.store(self._prepared(batch))]
        except StoreUnavailable as refused:
            return [refused for _ in batch]

    def _prepared(self, batch: Sequence[PendingWrite]) -> list[InboxRow]:
        """The batch's entries: made once, so that each keeps its id wherever it is written."""
        fresh = [waiting for waiting in batch if waiting.entry is None]
        made = inbox.prepare(self._vault, [waiting.incoming for waiting in fresh])
        for waiting, entry in zip(fresh, made, strict=True):
            waiting.entry = entry
        return [waiting.entry for waiting in batch if waiting.entry is not None]


def _outcomes(written: asyncio.Future[list[Outcome]], size: int) -> Sequence[Outcome]:
    error = None if written.cancelled() else written.exception()
    if not written.cancelled() and error is None:
        return written.result()
    _log.error("group_commit.write_broke", error=type(error).__name__)
    return [StoreUnavailable("the event could not be stored")] * size


def _resolve(future: asyncio.Future[StoreResult], outcome: Outcome) -> None:
    if future.done():  # its request gave up waiting
        return
    if isinstance(outcome, StoreUnavailable):
        future.set_exception(outcome)
    else:
        future.set_result(outcome)


def _disk_failed(error: Exception) -> bool:
    """Whether reading, writing or flushing SQLite's file has failed in the system itself."""
    return sqlite.primary_code(getattr(error, "orig", None)) == sqlite3.SQLITE_IOERR
