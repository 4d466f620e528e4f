"""What the worker knows: orders, their codes, and the follow-ups that codes call for.

Codes, texts and phone numbers are sealed with ``table|column|id`` as associated data; beside
them stand keyed digests to search and compare by.
"""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import Index, LargeBinary, Table, UniqueConstraint, text
from sqlmodel import Field, SQLModel

from receiver.database.engine import UtcTime
from receiver.database.followup import FollowUp, followup_indexes
from worker.schema.states import PENDING

# Orders that a code may still come for; spelled alike in queries, or SQLite would not see that an
# index has them all.
OPEN = text("status IN ('created', 'waiting')")
# What people look for and count: the few that have not ended as they should.
_NOT_READY = text("state <> 'ready'")
_NOT_DONE = text("state <> 'done'")
# What retention looks for.
_WITH_CODE = text("code IS NOT NULL")
_WITH_NUMBER = text("phone_number IS NOT NULL")


class Order(SQLModel, table=True):
    """A number bought for one service; ``status`` is the furthest state reported.

    The number is that of the latest swap by the provider's clock (``number_at``), arrival
    (``number_event_id``) breaking ties; a number no swap reported gives way to any swap's.
    One that was forgotten (``forgotten_at``) takes no number again.
    """

    __tablename__ = "orders"
    __table_args__ = (
        UniqueConstraint("provider", "order_id", name="uq_orders_order"),
        Index("ix_orders_status", "status"),
        Index("ix_orders_open", "provider", sqlite_where=OPEN, postgresql_where=OPEN),
        Index(
            "ix_orders_number",
            "created_at",
            sqlite_where=_WITH_NUMBER,
            postgresql_where=_WITH_NUMBER,
        ),
    )

    id: str = Field(primary_key=True)
    provider: str
    order_id: str
    status: str
    phone_number: bytes | None = Field(default=None, sa_type=LargeBinary)
    phone_digest: str | None = Field(default=None, index=True)
    number_swapped: bool = Field(default=False)
    number_at: datetime | None = Field(default=None, sa_type=UtcTime)
    number_event_id: str | None = Field(default=None)
    service: str | None = Field(default=None)
    country: str | None = Field(default=None)
    price: str | None = Field(default=None)
    created_at: datetime = Field(sa_type=UtcTime)
    updated_at: datetime = Field(sa_type=UtcTime)
    confirmed_at: datetime | None = Field(default=None, sa_type=UtcTime)
    expires_at: datetime | None = Field(default=None, sa_type=UtcTime)
    forgotten_at: datetime | None = Field(default=None, sa_type=UtcTime)


class OrderNumber(SQLModel, table=True):
    """A number that an order has or had: a late code on a former number still finds its order."""

    __tablename__ = "order_numbers"
    __table_args__ = (UniqueConstraint("order_ref", "phone_digest", name="uq_order_numbers"),)

    id: str = Field(primary_key=True)
    order_ref: str = Field(foreign_key="orders.id")
    phone_number: bytes | None = Field(default=None, sa_type=LargeBinary)
    phone_digest: str = Field(index=True)
    since: datetime = Field(sa_type=UtcTime)


class OrderTransition(SQLModel, table=True):
    """One step of an order, with the event that caused it; ``at`` is the provider's clock."""

    __tablename__ = "order_transitions"
    __table_args__ = (
        UniqueConstraint("order_ref", "event_id", "to_status", name="uq_order_transitions"),
    )

    id: str = Field(primary_key=True)
    order_ref: str = Field(foreign_key="orders.id")
    event_id: str | None = Field(default=None)
    kind: str
    from_status: str
    to_status: str
    at: datetime = Field(sa_type=UtcTime)
    recorded_at: datetime = Field(sa_type=UtcTime)


class Code(SQLModel, table=True):
    """A one-time code, once for each order however often it is reported.

    ``verified`` is None where nobody asked back, True where the provider confirmed the code and
    False where it could not be asked in time. ``event_id`` is the first event that reported it.
    """

    __tablename__ = "codes"
    __table_args__ = (
        UniqueConstraint("provider", "order_id", "code_digest", name="uq_codes_code"),
        Index("ix_codes_event", "event_id"),
        Index("ix_codes_open", "state", sqlite_where=_NOT_READY, postgresql_where=_NOT_READY),
        Index("ix_codes_code", "stored_at", sqlite_where=_WITH_CODE, postgresql_where=_WITH_CODE),
        Index(
            "ix_codes_number", "stored_at", sqlite_where=_WITH_NUMBER, postgresql_where=_WITH_NUMBER
        ),
    )

    id: str = Field(primary_key=True)
    provider: str
    order_id: str
    event_id: str
    code: bytes | None = Field(default=None, sa_type=LargeBinary)
    code_digest: str
    text: bytes | None = Field(default=None, sa_type=LargeBinary)
    phone_number: bytes | None = Field(default=None, sa_type=LargeBinary)
    phone_digest: str | None = Field(default=None, index=True)
    service: str | None = Field(default=None)
    country: str | None = Field(default=None)
    state: str
    verified: bool | None = Field(default=None)
    received_at: datetime | None = Field(default=None, sa_type=UtcTime)
    stored_at: datetime = Field(sa_type=UtcTime)


class Confirmation(FollowUp, table=True):
    """Something to settle with the provider about a code.

    ``action`` is ``confirm`` (finish the order; once for an order) or ``verify`` (ask whether
    the code is real; once for a code). ``asked_since`` is when the provider was first asked.
    """

    __tablename__ = "confirmations"
    __table_args__ = (
        UniqueConstraint("key", name="uq_confirmations_key"),
        Index("ix_confirmations_order", "provider", "order_id"),
        Index(
            "ix_confirmations_open", "state", "id",
            sqlite_where=_NOT_DONE, postgresql_where=_NOT_DONE,
        ),
        *followup_indexes("confirmations"),
    )  # fmt: skip

    id: str = Field(primary_key=True)
    key: str
    action: str
    provider: str
    order_id: str
    event_id: str
    code_id: str
    state: str = Field(default=PENDING)
    error: str | None = Field(default=None)
    unsure: bool = Field(default=False)
    asked_since: datetime | None = Field(default=None, sa_type=UtcTime)
    created_at: datetime = Field(sa_type=UtcTime)
    done_at: datetime | None = Field(default=None, sa_type=UtcTime)


class Delivery(FollowUp, table=True):
    """One notification to one destination; ``sent_at`` is when its far side took it.

    ``recipient`` is a keyed digest: this row is for one recipient of the destination, who did
    not get what the others got. ``message`` is shared by the rows that were last told together,
    at ``claimed_at``. ``failures`` counts the attempts that failed for good reason: a pause that
    the far side asked for is none. From ``stale_at`` on fresher rows go first.
    """

    __tablename__ = "deliveries"
    __table_args__ = (
        UniqueConstraint("key", name="uq_deliveries_key"),
        Index(
            "ix_deliveries_destination", "destination", "id",
            sqlite_where=text("wake_at IS NOT NULL"),
            postgresql_where=text("wake_at IS NOT NULL"),
        ),
        Index("ix_deliveries_event", "event_id"),
        Index(
            "ix_deliveries_open", "state", "id",
            sqlite_where=_NOT_DONE, postgresql_where=_NOT_DONE,
        ),
        *followup_indexes("deliveries"),
    )  # fmt: skip

    id: str = Field(primary_key=True)
    key: str
    destination: str
    type: str
    event_id: str
    code_id: str | None = Field(default=None)
    detail: str | None = Field(default=None)
    recipient: str | None = Field(default=None)
    state: str = Field(default=PENDING)
    error: str | None = Field(default=None)
    unsure: bool = Field(default=False)
    failures: int = Field(default=0, sa_column_kwargs={"server_default": "0"})
    message: str | None = Field(default=None)
    created_at: datetime = Field(sa_type=UtcTime)
    stale_at: datetime | None = Field(default=None, sa_type=UtcTime)
    claimed_at: datetime | None = Field(default=None, sa_type=UtcTime)
    sent_at: datetime | None = Field(default=None, sa_type=UtcTime)


class DestinationState(SQLModel, table=True):
    """How one destination fares; one that has no row was never told anything.

    ``disabled_at`` and ``reason`` are set while it is disabled. ``failures_in_row`` counts
    messages refused for good since one was taken. ``spent_until`` is its pace: when all that was
    sent would have been sent evenly. ``blocked_until`` is when its owner lets us come back, and
    ``awaited_until`` is set while a sender waits for its next turn.
    """

    __tablename__ = "destination_states"

    name: str = Field(primary_key=True)
    disabled_at: datetime | None = Field(default=None, sa_type=UtcTime)
    reason: str | None = Field(default=None)
    failures_in_row: int = Field(default=0)
    spent_until: datetime | None = Field(default=None, sa_type=UtcTime)
    blocked_until: datetime | None = Field(default=None, sa_type=UtcTime)
    awaited_until: datetime | None = Field(default=None, sa_type=UtcTime)


class Reconciliation(FollowUp, table=True):
    """Something to ask a provider about, again and again.

    ``action`` is ``order`` (how an open order stands; in the order of ``deadline``, when it is
    expected to end), ``history`` (the newest orders, back to ``place``, the newest of the last
    whole pass; a pass under way is at ``page``, and began with ``head``) or ``subscriptions``
    (how webhooks fare; ``place`` has the ids that the operators were warned about).
    ``answered_at`` is when it last ended well, and ``failures`` how often it has not since.
    """

    __tablename__ = "reconciliations"
    __table_args__ = (
        UniqueConstraint("key", name="uq_reconciliations_key"),
        Index(
            "ix_reconciliations_open", "provider", "action", "deadline",
            sqlite_where=text("wake_at IS NOT NULL"),
            postgresql_where=text("wake_at IS NOT NULL"),
        ),
        *followup_indexes("reconciliations"),
    )  # fmt: skip

    id: str = Field(primary_key=True)
    key: str
    action: str
    provider: str
    order_id: str | None = Field(default=None)
    deadline: datetime | None = Field(default=None, sa_type=UtcTime)
    place: str | None = Field(default=None)
    head: str | None = Field(default=None)
    page: int = Field(default=1)
    failures: int = Field(default=0)
    error: str | None = Field(default=None)
    created_at: datetime = Field(sa_type=UtcTime)
    answered_at: datetime | None = Field(default=None, sa_type=UtcTime)


class Budget(SQLModel, table=True):
    """What was spent of a limit on calls, and until when its owner told us to stay away.

    ``spent`` is JSON: pairs of a Unix second and the calls made in it, oldest first.
    """

    __tablename__ = "budgets"

    key: str = Field(primary_key=True)
    spent: str = Field(default="[]")
    blocked_until: datetime | None = Field(default=None, sa_type=UtcTime)


def table_of(model: type[SQLModel]) -> Table:
    """The table behind a model, for statements that need no object."""
    table: Table = model.__table__  # type: ignore[attr-defined]
    return table
