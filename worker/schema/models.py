"""The worker's tables: orders, codes, and the follow-ups of events.

Codes, texts and phone numbers are sealed (encrypted) with ``table|column|id`` as associated data.
Keyed digests beside them allow search and comparison.
"""

from __future__ import annotations

from datetime import datetime

import sqlalchemy as sa
from sqlalchemy import Index, LargeBinary, Table, UniqueConstraint, text
from sqlmodel import Field, SQLModel

from receiver.database.engine import UtcTime
from receiver.database.followup import FollowUp, followup_indexes
from worker.schema.states import PENDING

# Orders that may still receive a code. Queries must use this exact text: otherwise SQLite does not
# recognise that the partial index applies.
OPEN = text("status IN ('created', 'waiting')")
# For listing and counting the few rows that have not ended normally.
_NOT_READY = text("state <> 'ready'")
_NOT_DONE = text("state <> 'done'")
# For retention, which erases codes and phone numbers.
_WITH_CODE = text("code IS NOT NULL")
_WITH_NUMBER = text("phone_number IS NOT NULL")


class Order(SQLModel, table=True):
    """A phone number bought for one service; ``status`` is the highest-ranked state reported.

    ``phone_number`` is that of the latest swap by the provider's clock (``number_at``); the order
    of arrival (``number_event_id``) breaks ties. The number of any swap replaces one that no swap
    reported. An order whose data was erased (``forgotten_at``) never stores a number again.
    ``service_alias`` and ``country_alias`` are other names of its service and country.
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
    service_alias: str | None = Field(default=None)
    country_alias: str | None = Field(default=None)
    price: str | None = Field(default=None)
    created_at: datetime = Field(sa_type=UtcTime)
    updated_at: datetime = Field(sa_type=UtcTime)
    confirmed_at: datetime | None = Field(default=None, sa_type=UtcTime)
    expires_at: datetime | None = Field(default=None, sa_type=UtcTime)
    forgotten_at: datetime | None = Field(default=None, sa_type=UtcTime)


class OrderNumber(SQLModel, table=True):
    """A current or former number of an order: a late code to a former number finds its order."""

    __tablename__ = "order_numbers"
    __table_args__ = (UniqueConstraint("order_ref", "phone_digest", name="uq_order_numbers"),)

    id: str = Field(primary_key=True)
    order_ref: str = Field(foreign_key="orders.id")
    phone_number: bytes | None = Field(default=None, sa_type=LargeBinary)
    phone_digest: str = Field(index=True)
    since: datetime = Field(sa_type=UtcTime)


class OrderTransition(SQLModel, table=True):
    """A state change of an order and the event that caused it; ``at`` is the provider's time."""

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
    """A one-time code, stored once per order however often it is reported.

    ``verified`` is None if the provider was not asked, True if it confirmed the code, and False if
    it could not be asked in time. ``event_id`` is the first event that reported the code.
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
    extracted: bool = Field(default=False, sa_column_kwargs={"server_default": sa.false()})
    received_at: datetime | None = Field(default=None, sa_type=UtcTime)
    stored_at: datetime = Field(sa_type=UtcTime)


class Confirmation(FollowUp, table=True):
    """A provider call that a code requires.

    ``action`` is ``confirm`` (finish the order; once per order) or ``verify`` (check that the code
    is genuine; once per code). ``asked_since`` is when the provider was first asked. ``unsure``
    means that the outcome of a call is unknown.
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
    """One notification to one destination; ``sent_at`` is when the destination accepted it.

    ``recipient``, a keyed digest, is set if the row is for the one recipient of the destination
    that did not receive the message. Rows with the same ``message`` were last sent in one message,
    at ``claimed_at``. ``failures`` counts failed attempts, except those where the destination asked
    for a pause. ``unsure`` means that the outcome of an attempt is unknown. From ``stale_at`` on,
    newer rows are sent first. ``split_from`` is the message that the destination refused, if the
    row is sent in a part of it, and ``extra_sends`` how many more messages it has led to.
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
    split_from: str | None = Field(default=None)
    extra_sends: int = Field(default=0, sa_column_kwargs={"server_default": "0"})
    created_at: datetime = Field(sa_type=UtcTime)
    stale_at: datetime | None = Field(default=None, sa_type=UtcTime)
    claimed_at: datetime | None = Field(default=None, sa_type=UtcTime)
    sent_at: datetime | None = Field(default=None, sa_type=UtcTime)


class DestinationState(SQLModel, table=True):
    """The state of a destination; there is no row before the first delivery.

    ``disabled_at`` and ``reason`` are set while it is disabled. ``failures_in_row`` counts the
    permanent refusals since the last accepted message. ``spent_until`` is its token bucket: when
    the messages sent so far would end if they were sent evenly at the configured rate.
    ``blocked_until`` is the end of a pause that the destination asked for. ``foreign_since`` is
    when something else began to answer in its place, and ``foreign_reported_at`` when the operators
    were told.
    """

    __tablename__ = "destination_states"

    name: str = Field(primary_key=True)
    disabled_at: datetime | None = Field(default=None, sa_type=UtcTime)
    reason: str | None = Field(default=None)
    failures_in_row: int = Field(default=0)
    spent_until: datetime | None = Field(default=None, sa_type=UtcTime)
    blocked_until: datetime | None = Field(default=None, sa_type=UtcTime)
    awaited_until: datetime | None = Field(default=None, sa_type=UtcTime)  # older versions only
    foreign_since: datetime | None = Field(default=None, sa_type=UtcTime)
    foreign_reported_at: datetime | None = Field(default=None, sa_type=UtcTime)


class Reconciliation(FollowUp, table=True):
    """A question that a provider is asked periodically.

    ``action`` is one of:

    - ``order``: the state of an open order; ``deadline`` is its expected end, earliest first.
    - ``history``: the newest orders, back to ``place``, the newest order of the last complete pass.
      A pass in progress is at ``page`` and started with the order ``head``.
    - ``subscriptions``: the health of the webhooks; ``place`` has the ids that the operators were
      warned about.

    ``answered_at`` is the last success, and ``failures`` counts the failures since.
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
    """A call budget: the calls made, and the end of a pause that the provider asked for.

    ``spent`` is JSON: pairs of a Unix second and the calls made in it, oldest first.
    """

    __tablename__ = "budgets"

    key: str = Field(primary_key=True)
    spent: str = Field(default="[]")
    blocked_until: datetime | None = Field(default=None, sa_type=UtcTime)


class Rewrite(SQLModel, table=True):
    """How far the values of one table, stored by older versions, were brought to a new form.

    Rows up to the id ``place`` are done. ``checked_at`` is when a pass last reached the end, and
    ``finished_at`` when the first one did.
    """

    __tablename__ = "rewrites"

    name: str = Field(primary_key=True)
    place: str = Field(default="")
    checked_at: datetime | None = Field(default=None, sa_type=UtcTime)
    finished_at: datetime | None = Field(default=None, sa_type=UtcTime)


def table_of(model: type[SQLModel]) -> Table:
    """The table of a model, for statements that load no objects."""
    table: Table = model.__table__  # type: ignore[attr-defined]
    return table
