"""The columns by which a row waits for work, in whichever table it stands."""

from __future__ import annotations

from datetime import datetime, timedelta

from sqlalchemy import Index
from sqlmodel import Field, SQLModel, text

from receiver.database.engine import UtcTime

# How long a new row is left to the wake-up message before the sweep looks at it: a healthy
# message is faster than that, and so never doubled.
GRACE = timedelta(seconds=3)


class FollowUp(SQLModel):
    """A row with something left to do.

    ``attempt`` counts claims and fences late writers; ``next_attempt_at`` is when the next claim
    may happen; ``lease_until`` is set while somebody has it in hand; ``vanished`` counts holders
    who never came back; ``wake_at`` is when the sweep looks at it next, and None once nothing is
    left to do.
    """

    attempt: int = Field(default=0)
    vanished: int = Field(default=0)
    next_attempt_at: datetime = Field(sa_type=UtcTime)
    lease_until: datetime | None = Field(default=None, sa_type=UtcTime)
    wake_at: datetime | None = Field(default=None, sa_type=UtcTime)


def followup_indexes(table: str) -> tuple[Index, ...]:
    """The sweep's two partial indexes: they hold only rows with something left to do."""
    return tuple(
        Index(
            f"ix_{table}_{column}",
            column,
            sqlite_where=text(f"{column} IS NOT NULL"),
            postgresql_where=text(f"{column} IS NOT NULL"),
        )
        for column in ("wake_at", "lease_until")
    )
