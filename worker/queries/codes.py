"""Queries on codes: list, one, newest of an order, and a tail of new ones."""

from __future__ import annotations

from datetime import datetime, timedelta

from sqlalchemy import and_, func, or_
from sqlmodel import Session, col, select
from sqlmodel.sql.expression import Select

from receiver.vault.sealing import Vault
from worker.orders import codes
from worker.queries.filters import (
    COUNTRY,
    SERVICE,
    Conditions,
    Filters,
    Row,
    first_id,
    is_named,
    newest,
    of_order,
    phone_digests,
    span,
)
from worker.schema.models import Code, Order
from worker.schema.states import CODE_QUARANTINED, HELD, READY, UNRECOGNISED

# A row may be committed after a row with a higher id; every poll looks back this far.
_WINDOW = timedelta(seconds=60)
_MAX_WATCHED = 1_000
_BATCH = 500


def listed(session: Session, vault: Vault, filters: Filters) -> list[Row]:
    """The newest codes that match, by the provider's time."""
    statement = _with_status().where(*_conditions(session, vault, filters))
    found = newest(session, statement, Code.id, filters)
    found = sorted(found, key=lambda pair: pair[0].received_at or pair[0].stored_at, reverse=True)
    return [_row(vault, *pair) for pair in found]


def one(session: Session, vault: Vault, code_id: str) -> Row | None:
    """One code with all its fields, or None."""
    found = session.exec(_with_status().where(col(Code.id) == code_id)).first()
    if found is None:
        return None
    code = found[0]
    return {**_row(vault, *found), "event": code.event_id}


def of(session: Session, vault: Vault, order: Order) -> list[Row]:
    """Every code of an order, newest first."""
    statement = _with_status().where(
        col(Code.provider) == order.provider, col(Code.order_id) == order.order_id
    )
    found = session.exec(statement.order_by(col(Code.id).desc())).all()
    return [_row(vault, *pair) for pair in found]


def newest_message(session: Session, vault: Vault, filters: Filters) -> Row | None:
    """The newest message of the order in ``filters``, by the provider's time.

    It has a ready code, or a text in which no code was recognised. A code that was purged, is
    held, quarantined or discarded does not count.
    """
    newest_first = func.coalesce(col(Code.received_at), col(Code.stored_at)).desc()
    found = session.exec(
        _with_status()
        .where(
            *of_order(Code.provider, Code.order_id, filters),
            col(Code.state).in_([READY, UNRECOGNISED]),
            col(Code.code).is_not(None),
        )
        .order_by(newest_first, col(Code.id).desc())
        .limit(1)
    ).first()
    return None if found is None else _row(vault, *found)


class Tail:
    """Yields each code once: those that become ready after ``now``, or stored since ``since``.

    Held and quarantined codes are watched, and returned when they become ready.
    """

    def __init__(self, session: Session, vault: Vault, filters: Filters, *, now: datetime) -> None:
        self._conditions = _conditions(session, vault, filters)
        self._seen: set[str] = set()
        self._watched: list[str] = []
        self._floor: str | None = None
        if filters.since is not None:
            self._floor = first_id(filters.since, -_WINDOW)
        else:
            self._remember(self._poll(session, now), now)

    def fresh(self, session: Session, vault: Vault, *, now: datetime) -> list[Row]:
        """Codes that became ready since the last successful call, oldest first."""
        states = self._poll(session, now)
        rows: list[Row] = []
        unseen = self._unseen(states)
        for start in range(0, len(unseen), _BATCH):
            ids = unseen[start : start + _BATCH]
            statement = _with_status().where(col(Code.id).in_(ids)).order_by(col(Code.id))
            rows += [_row(vault, *pair) for pair in session.exec(statement)]
        self._remember(states, now)
        return rows

    def _poll(self, session: Session, now: datetime) -> dict[str, str]:
        floor = self._floor or first_id(now, -_WINDOW)
        statement = select(Code.id, Code.state).where(*self._conditions)
        states = dict(session.exec(statement.where(col(Code.id) >= floor)).all())
        if self._watched:
            states |= dict(session.exec(statement.where(col(Code.id).in_(self._watched))).all())
        return states

    def _unseen(self, states: dict[str, str]) -> list[str]:
        return sorted(i for i, state in states.items() if state == READY and i not in self._seen)

    def _remember(self, states: dict[str, str], now: datetime) -> None:
        window = first_id(now, -_WINDOW)
        watched = sorted(i for i, state in states.items() if state in {HELD, CODE_QUARANTINED})
        self._seen = {i for i in self._seen if i >= window}.union(self._unseen(states))
        self._watched = watched[-_MAX_WATCHED:]
        self._floor = None


def _conditions(session: Session, vault: Vault, filters: Filters) -> Conditions:
    conditions = [
        *of_order(Code.provider, Code.order_id, filters),
        *span(Code.id, Code.stored_at, filters),
    ]
    of_code = (
        select(Order.id)
        .where(col(Order.provider) == Code.provider, col(Order.order_id) == Code.order_id)
        .correlate(Code)
    )
    for pattern, own, names in (
        (filters.service, col(Code.service), SERVICE),
        (filters.country, col(Code.country), COUNTRY),
    ):
        if pattern is not None:
            known = of_code.where(is_named(pattern, *names)).exists()
            conditions.append(or_(is_named(pattern, own), known))
    if filters.state is not None:
        conditions.append(col(Code.state) == filters.state)
    if filters.phone is not None:
        conditions.append(col(Code.phone_digest).in_(phone_digests(session, vault, filters.phone)))
    return conditions


def _with_status() -> Select[Code, str]:
    same = and_(col(Order.provider) == Code.provider, col(Order.order_id) == Code.order_id)
    return select(Code, Order.status).join(Order, same, isouter=True)


def _row(vault: Vault, code: Code, order_status: str | None) -> Row:
    return {
        "id": code.id,
        "provider": code.provider,
        "order_id": code.order_id,
        "phone_number": codes.open_field(vault, code, "phone_number"),
        "service": code.service,
        "country": code.country,
        "code": codes.open_field(vault, code, "code") or None,
        "text": codes.open_field(vault, code, "text"),
        "received_at": code.received_at,
        "stored_at": code.stored_at,
        "order_status": order_status,
        "state": code.state,
        "verified": code.verified,
        "extracted": code.extracted,
    }
