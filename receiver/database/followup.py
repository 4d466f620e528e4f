"""The columns that every table of pending work shares."""

from __future__ import annotations

from datetime import datetime, timedelta

from sqlalchemy import Index
from sqlmodel import Field, SQLModel, text

from receiver.database.engine import UtcTime

# How long the sweep leaves a new row to its wake-up message: a message arrives sooner than that
# in a healthy system, so the sweep does not duplicate it.
GRACE = timedelta(seconds=3)


class FollowUp(SQLModel):
    """A row with pending work.

    ``attempt`` counts claims, and fences writers whose lease was lost. ``next_attempt_at`` is the
    earliest time of the next claim. ``lease_until`` is set while a claim is in progress.
    ``vanished`` counts leases that expired because their holder died. ``wake_at`` is when the
    sweep looks at the row next; None once no work is pending.
    """

    attempt: int = Field(default=0)
    vanished: int = Field(default=0)
    next_attempt_at: datetime = Field(sa_type=UtcTime)
    lease_until: datetime | None = Field(default=None, sa_type=UtcTime)
    wake_at: datetime | None = Field(default=None, sa_type=UtcTime)


def followup_indexes(table: str) -> tuple[Index, ...]:
    """The sweep's two partial indexes, which contain only rows with pending work."""
    return tuple(
        Index(
            f"ix_{table}_{column}",
            column,
            sqlite_where=text(f"{column} IS NOT NULL"),
            postgresql_where=text(f"{column} IS NOT NULL"),
        )
        for column in ("wake_at", "lease_until")
    )
