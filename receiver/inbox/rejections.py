"""A bounded record of refused requests.

Operators need to see that webhooks are refused, and why; an attacker must not be able to fill the
disk with refusals. So at most twenty are written each second, in one transaction, and the table
holds only the newest thousand.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime

import structlog
from sqlalchemy import LargeBinary, Table, delete, insert, select
from sqlalchemy.exc import SQLAlchemyError
from sqlmodel import Field, SQLModel
from ulid import ULID

from receiver.daemon_threads import DaemonThreads
from receiver.database.engine import Database, UtcTime
from receiver.vault.sealing import Vault

WRITTEN_PER_SECOND = 20
MAX_ROWS = 1_000
# How long closing waits for the database; what is not written by then is lost.
_CLOSE_SECONDS = 1.0
_log = structlog.get_logger(__name__)


class RejectedRequest(SQLModel, table=True):
    """A refused request: when, from which address (sealed), and why (plain text)."""

    __tablename__ = "rejected_requests"

    id: str = Field(primary_key=True)
    at: datetime = Field(sa_type=UtcTime)
    provider: str
    status: int
    reason: str
    origin: bytes = Field(sa_type=LargeBinary)


REJECTED: Table = RejectedRequest.__table__  # type: ignore[attr-defined]


@dataclass(frozen=True, slots=True)
class Rejection:
    """One refusal; ``origin`` is the client's address."""

    at: datetime
    provider: str
    status: int
    reason: str
    origin: str


class Rejections:
    """Accepts refusals at any rate without blocking, and writes a bounded number of them."""

    def __init__(self, database: Database, vault: Vault) -> None:
        self._database = database
        self._vault = vault
        self._queue: deque[Rejection] = deque(maxlen=WRITTEN_PER_SECOND)
        self._task: asyncio.Task[None] | None = None

    def note(self, rejection: Rejection) -> None:
        """Queue a refusal; if the queue is full, the oldest one is dropped."""
        self._queue.append(rejection)

    def start(self) -> None:
        """Start to write once a second, on the running loop."""
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def close(self) -> None:
        """Write the queued refusals and stop; waits for at most a second."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
        with suppress(TimeoutError):
            async with asyncio.timeout(_CLOSE_SECONDS):
                await self._flush()

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(1)
            await self._flush()

    async def _flush(self) -> None:
        if not self._queue:
            return
        batch = list(self._queue)
        self._queue.clear()
        # Not a shared pool: a frozen database blocks this thread for as long as it is frozen.
        thread = DaemonThreads(1, "rejections")
        try:
            await asyncio.get_running_loop().run_in_executor(thread, self._write, batch)
        except SQLAlchemyError as error:
            _log.warning("rejections.write_failed", count=len(batch), error=type(error).__name__)
        finally:
            thread.shutdown(wait=False)

    def _write(self, batch: Sequence[Rejection]) -> None:
        values = [self._values(rejection) for rejection in batch]
        with self._database.transaction() as session:
            session.execute(insert(REJECTED), values)
            first_expired = (
                select(REJECTED.c.id).order_by(REJECTED.c.id.desc()).offset(MAX_ROWS).limit(1)
            )
            session.execute(
                delete(REJECTED).where(REJECTED.c.id <= first_expired.scalar_subquery())
            )

    def _values(self, rejection: Rejection) -> dict[str, object]:
        row_id = str(ULID())
        origin = self._vault.seal(
            rejection.origin, table=REJECTED.name, column="origin", row=row_id
        )
        return {
            "id": row_id,
            "at": rejection.at,
            "provider": rejection.provider,
            "status": rejection.status,
            "reason": rejection.reason,
            "origin": origin,
        }
