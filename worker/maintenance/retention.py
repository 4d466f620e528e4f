"""What has been kept for as long as it may be is taken out: codes first, then everything personal.

Rows stay, and with them what tells a repetition from news (event keys, keyed digests of codes and
bodies), for as long as a provider's old webhook would still be authentic: without them it would
be told again. So do transitions and confirmations, which say what was charged, and tell nothing
about anybody. What identifies a person goes, and so do refusals, and what was told to whom.

A row with something left to do is left alone until that is done.
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
# Between two batches others write, in seconds.
_PAUSE: Final = 0.05
# What is left after so many seconds is for the next tick.
_LONGEST: Final = 10.0
# How long writers may be held up so that SQLite's log can be emptied.
_LOG_PATIENCE: Final = 0.5

_ALIASES = table_of(EventAlias)
_CODES = table_of(Code)
_CONFIRMATIONS = table_of(Confirmation)
_DELIVERIES = table_of(Delivery)
_NUMBERS = table_of(OrderNumber)
_ORDERS = table_of(Order)
_RECONCILIATIONS = table_of(Reconciliation)

# What the row of an order, or of a code, says about a person.
NO_NUMBER: Final[Mapping[str, Any]] = {"phone_number": None, "phone_digest": None}
NO_CODE: Final[Mapping[str, Any]] = {"code": None, "text": None}
NO_BODY: Final[Mapping[str, Any]] = {"body": None}
# A number that is reported after all is the order's again.
_NO_LAST_NUMBER: Final = {
    **NO_NUMBER, "number_swapped": False, "number_at": None, "number_event_id": None,
}  # fmt: skip
_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _Rule:
    """Rows of one table that are due: ``values`` are written to them; without any, they go.

    Rows whose column ``dependent`` refers to them go with that. ``by`` is what an index has them
    sorted by.
    """

    name: str
    table: Table
    due: ColumnElement[bool]
    by: ColumnElement[Any]
    values: Mapping[str, Any] | None = None
    dependent: ColumnElement[Any] | None = None


def purge(database: Database, settings: RetentionSettings) -> Mapping[str, int]:
    """Take out what is due, in any number of processes at once; how many rows of which kind.

    In small transactions with pauses, and for some seconds at most: what is left then is for the
    next call. Where nothing is due nothing is written.
    """
    ends = time.monotonic() + _LONGEST
    with database.reading() as session:
        now = database.now(session)
    purged: dict[str, int] = {}
    for rule in _rules(now - settings.retention_codes, now - settings.retention_events):
        count = _follow(database, rule, ends)
        if count:
            purged[rule.name] = count
    if purged:
        emptied = database.empty_log(patience=_LOG_PATIENCE)
        _log.info("retention.purged", log_emptied=emptied, **purged)
    return purged


def _rules(codes_until: datetime, events_until: datetime) -> Sequence[_Rule]:
    """What is kept no longer, of what was stored until then."""
    oldest_id = first_id(events_until)
    idle = INBOX.c.wake_at.is_(None)
    return (
        _Rule(
            "codes", _CODES,
            and_(_CODES.c.code.is_not(None), _CODES.c.stored_at <= codes_until, ~_awaited()),
            _CODES.c.stored_at, NO_CODE,
        ),
        # The body that reported a code holds the code as well.
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
                _CODES.c.phone_number.is_not(None), _CODES.c.stored_at <= events_until, ~_awaited()
            ),
            _CODES.c.stored_at, NO_NUMBER,
        ),
        _Rule(
            "order_numbers", _ORDERS,
            and_(
                _ORDERS.c.phone_number.is_not(None), _ORDERS.c.created_at <= events_until,
                ~_asked_for(),
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
                _RECONCILIATIONS.c.wake_at.is_(None), ~_open_still(),
            ),
            _RECONCILIATIONS.c.id,
        ),
    )  # fmt: skip


def _awaited() -> ColumnElement[bool]:
    """Codes that are yet to be told, or to be settled with their provider."""
    told = exists().where(
        _DELIVERIES.c.event_id == _CODES.c.event_id, _DELIVERIES.c.wake_at.is_not(None)
    )
    settled = exists().where(
        _CONFIRMATIONS.c.provider == _CODES.c.provider,
        _CONFIRMATIONS.c.order_id == _CODES.c.order_id,
        _CONFIRMATIONS.c.wake_at.is_not(None),
    )
    return told | settled


def _asked_for() -> ColumnElement[bool]:
    """Orders that their provider is asked about."""
    key = literal(f"{ORDER}:") + _ORDERS.c.provider + ":" + _ORDERS.c.order_id
    return exists().where(_RECONCILIATIONS.c.key == key, _RECONCILIATIONS.c.wake_at.is_not(None))


def _open_still() -> ColumnElement[bool]:
    """Rows of orders that never ended: without its row such an order would be asked for again."""
    return exists().where(
        _ORDERS.c.provider == _RECONCILIATIONS.c.provider,
        _ORDERS.c.order_id == _RECONCILIATIONS.c.order_id,
        OPEN,
    )


def _follow(database: Database, rule: _Rule, ends: float) -> int:
    """How many rows were due."""
    total = 0
    while time.monotonic() < ends and _is_due(database, rule):
        with database.transaction() as session:
            count = _batch(session, rule)
        total += count
        if count < BATCH:  # what is left, if anything, is in somebody's hand
            break
        time.sleep(_PAUSE)
    return total


def _is_due(database: Database, rule: _Rule) -> bool:
    """Whether there is anything to do: to look takes no lock."""
    with database.reading() as session:
        looked = select(rule.table.c.id).where(rule.due).limit(1)
        return session.connection().execute(looked).first() is not None


def _batch(session: Session, rule: _Rule) -> int:
    table, connection = rule.table, session.connection()
    chosen = select(table.c.id).where(rule.due).order_by(rule.by).limit(BATCH)
    ids = list(connection.scalars(chosen.with_for_update(skip_locked=True, of=table)))
    if rule.dependent is not None:
        connection.execute(delete(rule.dependent.table).where(rule.dependent.in_(ids)))
    if rule.values is None:
        connection.execute(delete(table).where(table.c.id.in_(ids)))
    else:
        connection.execute(update(table).where(table.c.id.in_(ids)).values(rule.values))
    return len(ids)
