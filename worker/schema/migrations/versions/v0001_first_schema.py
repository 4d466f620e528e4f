"""The first schema: the inbox, orders, codes and follow-ups."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

from receiver.database.engine import UtcTime

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_TABLES = (
    "inbox_events",
    "rejected_requests",
    "vault_keys",
    "heartbeats",
    "orders",
    "order_numbers",
    "order_transitions",
    "codes",
    "confirmations",
    "deliveries",
    "budgets",
)


def _text(name: str, *, null: bool = False) -> sa.Column[Any]:
    return sa.Column(name, sa.String(), nullable=null)


def _time(name: str, *, null: bool = False) -> sa.Column[Any]:
    return sa.Column(name, UtcTime(), nullable=null)


def _sealed(name: str, *, null: bool = True) -> sa.Column[Any]:
    return sa.Column(name, sa.LargeBinary(), nullable=null)


def _flag(name: str, *, null: bool = False) -> sa.Column[Any]:
    return sa.Column(name, sa.Boolean(), nullable=null)


def _id(name: str = "id") -> sa.Column[Any]:
    return sa.Column(name, sa.String(), primary_key=True, nullable=False)


def _followup() -> tuple[sa.Column[Any], ...]:
    return (
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("vanished", sa.Integer(), nullable=False),
        _time("next_attempt_at"),
        _time("lease_until", null=True),
        _time("wake_at", null=True),
    )


def _partial_index(table: str, name: str, columns: list[str], where: str) -> None:
    op.create_index(
        name, table, columns, sqlite_where=sa.text(where), postgresql_where=sa.text(where)
    )


def _followup_indexes(table: str) -> None:
    for column in ("wake_at", "lease_until"):
        _partial_index(table, f"ix_{table}_{column}", [column], f"{column} IS NOT NULL")


def upgrade() -> None:
    """Create every table."""
    _receiver_tables()
    _order_tables()
    _followup_tables()


def _receiver_tables() -> None:
    op.create_table(
        "inbox_events",
        _id(), _text("provider"), _text("key"), _text("body_digest"), _sealed("body"),
        _text("source"), _text("type", null=True), _text("state"), _text("error", null=True),
        _text("notes", null=True), _text("order_id", null=True), _text("code_id", null=True),
        _time("received_at", null=True), _time("arrived_at"), _time("stored_at"),
        _time("handled_at", null=True), *_followup(),
        sa.UniqueConstraint("provider", "key", name="uq_inbox_events_key"),
    )  # fmt: skip
    _followup_indexes("inbox_events")
    _partial_index("inbox_events", "ix_inbox_events_open", ["state", "id"], "state <> 'handled'")
    op.create_index("ix_inbox_events_order", "inbox_events", ["order_id"])
    op.create_table(
        "rejected_requests",
        _id(), _time("at"), _text("provider"), sa.Column("status", sa.Integer(), nullable=False),
        _text("reason"), _sealed("origin", null=False),
    )  # fmt: skip
    op.create_table("vault_keys", _id(), _sealed("value", null=False), _time("created_at"))
    op.create_table("heartbeats", _id("part"), _time("seen_at"))


def _order_tables() -> None:
    op.create_table(
        "orders",
        _id(), _text("provider"), _text("order_id"), _text("status"), _sealed("phone_number"),
        _text("phone_digest", null=True), _flag("number_swapped"), _time("number_at", null=True),
        _text("number_event_id", null=True), _text("service", null=True),
        _text("country", null=True), _text("price", null=True), _time("created_at"),
        _time("updated_at"), _time("confirmed_at", null=True), _time("expires_at", null=True),
        sa.UniqueConstraint("provider", "order_id", name="uq_orders_order"),
    )  # fmt: skip
    op.create_index("ix_orders_phone_digest", "orders", ["phone_digest"])
    op.create_table(
        "order_numbers",
        _id(), sa.Column("order_ref", sa.String(), sa.ForeignKey("orders.id"), nullable=False),
        _sealed("phone_number"), _text("phone_digest"), _time("since"),
        sa.UniqueConstraint("order_ref", "phone_digest", name="uq_order_numbers"),
    )  # fmt: skip
    op.create_index("ix_order_numbers_phone_digest", "order_numbers", ["phone_digest"])
    op.create_table(
        "order_transitions",
        _id(), sa.Column("order_ref", sa.String(), sa.ForeignKey("orders.id"), nullable=False),
        _text("event_id", null=True), _text("kind"), _text("from_status"), _text("to_status"),
        _time("at"), _time("recorded_at"),
        sa.UniqueConstraint("order_ref", "event_id", "to_status", name="uq_order_transitions"),
    )  # fmt: skip
    op.create_table(
        "codes",
        _id(), _text("provider"), _text("order_id"), _text("event_id"), _sealed("code"),
        _text("code_digest"), _sealed("text"), _sealed("phone_number"),
        _text("phone_digest", null=True), _text("service", null=True), _text("country", null=True),
        _text("state"), _flag("verified", null=True), _time("received_at", null=True),
        _time("stored_at"),
        sa.UniqueConstraint("provider", "order_id", "code_digest", name="uq_codes_code"),
    )  # fmt: skip
    op.create_index("ix_codes_event", "codes", ["event_id"])
    op.create_index("ix_codes_phone_digest", "codes", ["phone_digest"])


def _followup_tables() -> None:
    op.create_table(
        "confirmations",
        _id(), _text("key"), _text("action"), _text("provider"), _text("order_id"),
        _text("event_id"), _text("code_id"), _text("state"), _text("error", null=True),
        _flag("unsure"), _time("asked_since", null=True), _time("created_at"),
        _time("done_at", null=True), *_followup(),
        sa.UniqueConstraint("key", name="uq_confirmations_key"),
    )  # fmt: skip
    _followup_indexes("confirmations")
    op.create_index("ix_confirmations_order", "confirmations", ["provider", "order_id"])
    op.create_table(
        "deliveries",
        _id(), _text("key"), _text("destination"), _text("type"), _text("event_id"),
        _text("code_id", null=True), _text("detail", null=True), _text("state"),
        _text("error", null=True), _flag("unsure"), _time("created_at"),
        _time("sent_at", null=True), *_followup(),
        sa.UniqueConstraint("key", name="uq_deliveries_key"),
    )  # fmt: skip
    _followup_indexes("deliveries")
    _partial_index(
        "deliveries", "ix_deliveries_destination", ["destination", "id"], "wake_at IS NOT NULL"
    )
    op.create_index("ix_deliveries_event", "deliveries", ["event_id"])
    op.create_table("budgets", _id("key"), _text("spent"), _time("blocked_until", null=True))


def downgrade() -> None:
    """Drop every table."""
    for table in reversed(_TABLES):
        op.drop_table(table)
