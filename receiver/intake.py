"""Group commit: requests that arrive while one transaction is written share the next one.

There is no timer: an idle receiver writes a lone event at once, a busy one writes many events
with one flush of the disk. Each request is answered after the commit that holds its event. The
writing happens in threads, so that a slow disk never holds the event loop.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import structlog
from sqlalchemy.exc import DBAPIError

from receiver import inbox
from receiver.database import TROUBLE, Database
from receiver.errors import StoreUnavailable
from receiver.inbox import Arrival, Stored
from receiver.vault import Vault

LARGEST_BATCH = 256
DEEPEST_QUEUE = 4096
# PostgreSQL can write one batch while another is on its way; SQLite has one writer.
_BATCHES_IN_FLIGHT = {"postgresql": 2, "sqlite": 1}
_ATTEMPTS = 3
_DEADLOCK_STATES = {"40P01", "40001"}
_log = structlog.get_logger(__name__)

_Waiting = tuple[Arrival, "asyncio.Future[Stored]"]


class Intake:
    """The way into the inbox for one event loop."""

    def __init__(self, database: Database, vault: Vault) -> None:
        self._database = database
        self._vault = vault
        self._flights = _BATCHES_IN_FLIGHT["postgresql" if database.is_postgresql else "sqlite"]
        self._writers = ThreadPoolExecutor(self._flights, thread_name_prefix="intake")
        self._waiting: deque[_Waiting] = deque()
        self._flying = 0
        self._closed = False

    async def store(self, arrival: Arrival) -> Stored:
        """Where ``arrival`` ended; returns only when that is on durable storage.

        Raises:
            StoreUnavailable: it could not be written, or too many are waiting already.
        """
        if self._closed:
            raise StoreUnavailable("the receiver is stopping")
        if len(self._waiting) >= DEEPEST_QUEUE:
            raise StoreUnavailable("too many events are waiting to be stored")
        future: asyncio.Future[Stored] = asyncio.get_running_loop().create_future()
        self._waiting.append((arrival, future))
        self._launch()
        return await future

    def close(self) -> None:
        """Wait for what is being written; what is still waiting, or comes later, is refused."""
        self._closed = True
        self._writers.shutdown(wait=True)
        for _, future in self._waiting:
            if not future.done():
                future.set_exception(StoreUnavailable("the receiver is stopping"))
        self._waiting.clear()

    def _launch(self) -> None:
        while self._waiting and self._flying < self._flights:
            size = min(LARGEST_BATCH, len(self._waiting))
            batch = [self._waiting.popleft() for _ in range(size)]
            self._flying += 1
            writing = asyncio.get_running_loop().run_in_executor(
                self._writers, self._write, [arrival for arrival, _ in batch]
            )
            writing.add_done_callback(partial(self._landed, batch))

    def _landed(
        self, batch: Sequence[_Waiting], writing: asyncio.Future[list[Stored | StoreUnavailable]]
    ) -> None:
        self._flying -= 1
        error = None if writing.cancelled() else writing.exception()
        outcomes: Sequence[Stored | StoreUnavailable]
        if writing.cancelled() or error is not None:
            _log.error("intake.write_broke", error=type(error).__name__)
            outcomes = [StoreUnavailable("the event could not be stored") for _ in batch]
        else:
            outcomes = writing.result()
        for (_, future), outcome in zip(batch, outcomes, strict=True):
            if future.done():  # its request gave up waiting
                continue
            if isinstance(outcome, StoreUnavailable):
                future.set_exception(outcome)
            else:
                future.set_result(outcome)
        self._launch()

    def _write(self, arrivals: Sequence[Arrival]) -> list[Stored | StoreUnavailable]:
        """Runs in a writer thread: all of a batch in one commit, or each for itself."""
        try:
            return [*self._commit(arrivals)]
        except Exception as error:  # noqa: BLE001 - drivers raise more than SQLAlchemy wraps
            _log.warning("intake.commit_failed", events=len(arrivals), error=type(error).__name__)
            if len(arrivals) == 1 or _connection_trouble(error):
                return [StoreUnavailable("the database did not take the event") for _ in arrivals]
        # One of them is to blame: the others must not suffer for it.
        return [outcome for arrival in arrivals for outcome in self._write([arrival])]

    def _commit(self, arrivals: Sequence[Arrival]) -> list[Stored]:
        left = _ATTEMPTS
        while True:
            left -= 1
            try:
                with self._database.transaction() as session:
                    return inbox.store_many(session, self._vault, arrivals)
            except DBAPIError as error:
                if not left or not _passing(error):
                    raise


def _passing(error: DBAPIError) -> bool:
    """Whether the same transaction may succeed at once: it is idempotent, so it may be repeated.

    A connection that was lost, in the commit even, is replaced by a new one.
    """
    deadlock = getattr(error.orig, "sqlstate", None) in _DEADLOCK_STATES
    return deadlock or error.connection_invalidated


def _connection_trouble(error: Exception) -> bool:
    """Whether the database, and not one of the rows, is what failed."""
    return isinstance(error, TROUBLE)
