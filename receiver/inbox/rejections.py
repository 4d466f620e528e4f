"""The bounded trace of refused requests.

An operator wants to know that webhooks are being refused, and why; a stranger must not be able
to fill the disk with refusals. So at most a few are written each second, in one transaction
beside the honest ones, and only the newest thousand are kept.
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

from receiver.database.engine import Database, UtcTime
from receiver.vault.sealing import Vault

WRITTEN_PER_SECOND = 20
KEPT = 1_000
_log = structlog.get_logger(__name__)


class RejectedRequest(SQLModel, table=True):
    """When a request was refused, from where (sealed), and why in words."""

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
    """One refusal; ``origin`` is the address it came from."""

    at: datetime
    provider: str
    status: int
    reason: str
    origin: str


class Rejections:
    """Takes refusals at any rate; writes few of them, and never in a request's way."""

    def __init__(self, database: Database, vault: Vault) -> None:
        self._database = database
        self._vault = vault
        self._waiting: deque[Rejection] = deque(maxlen=WRITTEN_PER_SECOND)
        self._task: asyncio.Task[None] | None = None

    def note(self, rejection: Rejection) -> None:
        """Remember a refusal, instead of the oldest one where too many wait already."""
        self._waiting.append(rejection)

    def start(self) -> None:
        """Begin to write, once a second, on the running loop."""
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def close(self) -> None:
        """Write what is left and stop."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
        await self._flush()

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(1)
            await self._flush()

    async def _flush(self) -> None:
        if not self._waiting:
            return
        batch = list(self._waiting)
        self._waiting.clear()
        try:
            await asyncio.to_thread(self._write, batch)
        except SQLAlchemyError as error:
            _log.warning("rejections.write_failed", count=len(batch), error=type(error).__name__)

    def _write(self, batch: Sequence[Rejection]) -> None:
        values = [self._values(rejection) for rejection in batch]
        with self._database.transaction() as session:
            session.execute(insert(REJECTED), values)
            oldest_kept = select(REJECTED.c.id).order_by(REJECTED.c.id.desc()).offset(KEPT).limit(1)
            session.execute(delete(REJECTED).where(REJECTED.c.id <= oldest_kept.scalar_subquery()))

    def _values(self, rejection: Rejection) -> dict[str, object]:
        row = str(ULID())
        origin = self._vault.seal(rejection.origin, table=REJECTED.name, column="origin", row=row)
        return {
            "id": row,
            "at": rejection.at,
            "provider": rejection.provider,
            "status": rejection.status,
            "reason": rejection.reason,
            "origin": origin,
        }
