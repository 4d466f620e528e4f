"""Retention: deletes codes first, and later everything else that identifies a person.

Most rows stay with the columns that detect duplicates (event keys, keyed digests of codes and
bodies), because a provider's old webhook stays authentic: without them its code would be
delivered again. Transitions and confirmations stay too: they record charges and hold no personal
data. Phone numbers, bodies, rejected requests and deliveries go.

A row with pending work stays until that work is done.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import structlog
from sqlalchemy import ColumnElement, Table, and_, delete, exists, literal, select, update
from sqlmodel import Session

from receiver.database.engine import Database
from receiver.inbox.rejections import REJECTED
from receiver.inbox.spool import EventAlias
from receiver.inbox.store import INBOX
from worker.configuration.settings import RetentionSettings
from worker.queries.filters import first_id
from worker.schema.models import (
    OPEN,
    Code,
    Confirmation,
    Delivery,
    Order,
    OrderNumber,
    Reconciliation,
    table_of,
)
from worker.schema.states import ORDER

BATCH: Final = 500
# Pause between two batches, in seconds, so that other writers get the database.
_PAUSE: Final = 0.05
# Seconds for one purge; the next tick continues.
_TIME_LIMIT: Final = 10.0
# Seconds for which truncating SQLite's write-ahead log may block writers.
_WAL_TIMEOUT: Final = 0.5

_ALIASES = table_of(EventAlias)
_CODES = table_of(Code)
_CONFIRMATIONS = table_of(Confirmation)
_DELIVERIES = table_of(Delivery)
_NUMBERS = table_of(OrderNumber)
_ORDERS = table_of(Order)
_RECONCILIATIONS = table_of(Reconciliation)

# Column values that erase personal data from orders, codes and events.
NO_NUMBER: Final[Mapping[str, Any]] = {"phone_number": None, "phone_digest": None}
NO_CODE: Final[Mapping[str, Any]] = {"code": None, "text": None}
NO_BODY: Final[Mapping[str, Any]] = {"body": None}
# With the swap columns reset, a number that is reported later is stored as the first one.
_NO_LAST_NUMBER: Final = {
    **NO_NUMBER, "number_swapped": False, "number_at": None, "number_event_id": None,
}  # fmt: skip
_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _Rule:
    """Rows of one table that are ``due``: updated with ``values``, or deleted if that is None.

    Rows whose column ``dependent`` refers to them are deleted too. ``by`` is an indexed column
    that orders the batches.
    """

    name: str
    table: Table
    due: ColumnElement[bool]
    by: ColumnElement[Any]
    values: Mapping[str, Any] | None = None
    dependent: ColumnElement[Any] | None = None


def purge(database: Database, settings: RetentionSettings) -> Mapping[str, int]:
    """Apply every rule; returns the number of rows by rule. Safe to run concurrently.

    Works in small transactions with pauses and stops after :data:`_TIME_LIMIT` seconds; the next
    call continues. Writes nothing if nothing is due.
    """
    ends = time.monotonic() + _TIME_LIMIT
    with database.reading() as session:
        now = database.now(session)
    purged: dict[str, int] = {}
    for rule in _rules(now - settings.retention_codes, now - settings.retention_events):
        count = _apply(database, rule, ends)
        if count:
            purged[rule.name] = count
    if purged:
        emptied = database.truncate_wal(timeout=_WAL_TIMEOUT)
        _log.info("retention.purged", log_emptied=emptied, **purged)
    return purged


def _rules(codes_until: datetime, events_until: datetime) -> Sequence[_Rule]:
    """The rules for codes and events stored at or before these times."""
    oldest_id = first_id(events_until)
    idle = INBOX.c.wake_at.is_(None)
    return (
        _Rule(
            "codes", _CODES,
            and_(_CODES.c.code.is_not(None), _CODES.c.stored_at <= codes_until, ~_in_use()),
            _CODES.c.stored_at, NO_CODE,
        ),
        # The body that reported a code contains the code as well.
        _Rule(
            "code_bodies", INBOX,
            and_(
                INBOX.c.body.is_not(None), INBOX.c.code_id.is_not(None),
                INBOX.c.stored_at <= codes_until, idle,
            ),
            INBOX.c.stored_at, NO_BODY,
        ),
        _Rule(
            "bodies", INBOX,
            and_(INBOX.c.body.is_not(None), INBOX.c.stored_at <= events_until, idle),
            INBOX.c.stored_at, NO_BODY,
        ),
        _Rule(
            "code_numbers", _CODES,
            and_(
                _CODES.c.phone_number.is_not(None), _CODES.c.stored_at <= events_until, ~_in_use()
            ),
            _CODES.c.stored_at, NO_NUMBER,
        ),
        _Rule(
            "order_numbers", _ORDERS,
            and_(
                _ORDERS.c.phone_number.is_not(None), _ORDERS.c.created_at <= events_until,
                ~_is_polled(),
            ),
            _ORDERS.c.created_at, _NO_LAST_NUMBER, dependent=_NUMBERS.c.order_ref,
        ),
        _Rule("rejections", REJECTED, REJECTED.c.id < oldest_id, REJECTED.c.id),
        _Rule("aliases", _ALIASES, _ALIASES.c.id < oldest_id, _ALIASES.c.id),
        _Rule(
            "deliveries", _DELIVERIES,
            and_(_DELIVERIES.c.id < oldest_id, _DELIVERIES.c.wake_at.is_(None)),
            _DELIVERIES.c.id,
        ),
        _Rule(
            "reconciliations", _RECONCILIATIONS,
            and_(
                _RECONCILIATIONS.c.id < oldest_id, _RECONCILIATIONS.c.action == ORDER,
                _RECONCILIATIONS.c.wake_at.is_(None), ~_order_is_open(),
            ),
            _RECONCILIATIONS.c.id,
        ),
    )  # fmt: skip


def _in_use() -> ColumnElement[bool]:
    """Codes that a pending delivery or confirmation needs."""
    delivery_pending = exists().where(
        _DELIVERIES.c.event_id == _CODES.c.event_id, _DELIVERIES.c.wake_at.is_not(None)
    )
    confirmation_pending = exists().where(
        _CONFIRMATIONS.c.provider == _CODES.c.provider,
        _CONFIRMATIONS.c.order_id == _CODES.c.order_id,
        _CONFIRMATIONS.c.wake_at.is_not(None),
    )
    return delivery_pending | confirmation_pending


def _is_polled() -> ColumnElement[bool]:
    """Orders with a scheduled reconciliation."""
    key = literal(f"{ORDER}:") + _ORDERS.c.provider + ":" + _ORDERS.c.order_id
    return exists().where(_RECONCILIATIONS.c.key == key, _RECONCILIATIONS.c.wake_at.is_not(None))


def _order_is_open() -> ColumnElement[bool]:
    """Reconciliations of open orders: without its row such an order would be polled again."""
    return exists().where(
        _ORDERS.c.provider == _RECONCILIATIONS.c.provider,
        _ORDERS.c.order_id == _RECONCILIATIONS.c.order_id,
        OPEN,
    )


def _apply(database: Database, rule: _Rule, ends: float) -> int:
    """Apply one rule in batches; returns the number of rows."""
    total = 0
    while time.monotonic() < ends and _is_due(database, rule):
        with database.transaction() as session:
            count = _batch(session, rule)
        total += count
        if count < BATCH:  # any rows left are locked by another transaction
            break
        time.sleep(_PAUSE)
    return total


def _is_due(database: Database, rule: _Rule) -> bool:
    """Whether any row is due; checks without a lock."""
    with database.reading() as session:
        statement = select(rule.table.c.id).where(rule.due).limit(1)
        return session.connection().execute(statement).first() is not None


def _batch(session: Session, rule: _Rule) -> int:
    table, connection = rule.table, session.connection()
    statement = select(table.c.id).where(rule.due).order_by(rule.by).limit(BATCH)
    ids = list(connection.scalars(statement.with_for_update(skip_locked=True, of=table)))
    if rule.dependent is not None:
        connection.execute(delete(rule.dependent.table).where(rule.dependent.in_(ids)))
    if rule.values is None:
        connection.execute(delete(table).where(table.c.id.in_(ids)))
    else:
        connection.execute(update(table).where(table.c.id.in_(ids)).values(rule.values))
    return len(ids)
