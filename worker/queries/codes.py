"""Codes: lists, one, the newest of an order, and those that come while somebody watches."""

from __future__ import annotations

from datetime import datetime, timedelta

from sqlalchemy import and_
from sqlmodel import Session, col, select
from sqlmodel.sql.expression import Select

from receiver.vault.sealing import Vault
from worker.orders import codes
from worker.queries.filters import (
    Conditions,
    Filters,
    Row,
    first_id,
    newest,
    of_order,
    phone_digests,
    span,
)
from worker.schema.models import Code, Order
from worker.schema.states import CODE_QUARANTINED, HELD, READY

# A row may be committed after one with a later id; a later look finds it within this long.
_WINDOW = timedelta(seconds=60)
_MOST_WATCHED = 1_000
_BATCH = 500


def listed(session: Session, vault: Vault, filters: Filters) -> list[Row]:
    """The newest codes that fit."""
    statement = _with_status().where(*_conditions(vault, filters))
    return [_row(vault, *found) for found in newest(session, statement, Code.id, filters)]


def one(session: Session, vault: Vault, code_id: str) -> Row | None:
    """Everything about one code."""
    found = session.exec(_with_status().where(col(Code.id) == code_id)).first()
    if found is None:
        return None
    code = found[0]
    return {**_row(vault, *found), "verified": code.verified, "event": code.event_id}


def of(session: Session, vault: Vault, order: Order) -> list[Row]:
    """Every code of an order, newest first."""
    statement = _with_status().where(
        col(Code.provider) == order.provider, col(Code.order_id) == order.order_id
    )
    found = session.exec(statement.order_by(col(Code.id).desc())).all()
    return [{**_row(vault, *pair), "verified": pair[0].verified} for pair in found]


def newest_ready(session: Session, vault: Vault, filters: Filters) -> str | None:
    """The newest code that may be told and was not purged, of the order in ``filters``.

    Of codes that were stored in one transaction, the newest by the provider's clock.
    """
    code = session.exec(
        select(Code)
        .where(
            *of_order(Code.provider, Code.order_id, filters),
            col(Code.state) == READY,
            col(Code.code).is_not(None),
        )
        .order_by(
            col(Code.stored_at).desc(),
            col(Code.received_at).desc().nulls_last(),
            col(Code.id).desc(),
        )
        .limit(1)
    ).first()
    return None if code is None else codes.open_field(vault, code, "code")


class Tail:
    """The codes that become ready after ``now``, or that were stored since ``since``; each once.

    A code that is held or quarantined is watched, and comes once it is ready.
    """

    def __init__(self, session: Session, vault: Vault, filters: Filters, *, now: datetime) -> None:
        self._conditions = _conditions(vault, filters)
        self._seen: set[str] = set()
        self._watched: list[str] = []
        self._floor: str | None = None
        if filters.since is not None:
            self._floor = first_id(filters.since, -_WINDOW)
        else:
            self._remember(self._look(session, now), now)

    def fresh(self, session: Session, vault: Vault, *, now: datetime) -> list[Row]:
        """What has become ready since the last call that succeeded, oldest first."""
        states = self._look(session, now)
        rows: list[Row] = []
        unseen = self._unseen(states)
        for start in range(0, len(unseen), _BATCH):
            ids = unseen[start : start + _BATCH]
            wanted = _with_status().where(col(Code.id).in_(ids)).order_by(col(Code.id))
            rows += [_row(vault, *pair) for pair in session.exec(wanted)]
        self._remember(states, now)
        return rows

    def _look(self, session: Session, now: datetime) -> dict[str, str]:
        floor = self._floor or first_id(now, -_WINDOW)
        looked = select(Code.id, Code.state).where(*self._conditions)
        states = dict(session.exec(looked.where(col(Code.id) >= floor)).all())
        if self._watched:
            states |= dict(session.exec(looked.where(col(Code.id).in_(self._watched))).all())
        return states

    def _unseen(self, states: dict[str, str]) -> list[str]:
        return sorted(i for i, state in states.items() if state == READY and i not in self._seen)

    def _remember(self, states: dict[str, str], now: datetime) -> None:
        window = first_id(now, -_WINDOW)
        watched = sorted(i for i, state in states.items() if state in {HELD, CODE_QUARANTINED})
        self._seen = {i for i in self._seen if i >= window}.union(self._unseen(states))
        self._watched = watched[-_MOST_WATCHED:]
        self._floor = None


def _conditions(vault: Vault, filters: Filters) -> Conditions:
    conditions = [
        *of_order(Code.provider, Code.order_id, filters),
        *span(Code.id, Code.stored_at, filters),
    ]
    if filters.service is not None:
        conditions.append(col(Code.service) == filters.service)
    if filters.state is not None:
        conditions.append(col(Code.state) == filters.state)
    if filters.phone is not None:
        conditions.append(col(Code.phone_digest).in_(phone_digests(vault, filters.phone)))
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
        "code": codes.open_field(vault, code, "code"),
        "text": codes.open_field(vault, code, "text"),
        "received_at": code.received_at,
        "stored_at": code.stored_at,
        "order_status": order_status,
        "state": code.state,
    }
