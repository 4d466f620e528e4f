"""Query on destinations: configuration, state and pending deliveries."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from sqlalchemy import func
from sqlmodel import Session, col, select

from worker.configuration.destination_policy import DestinationPolicy
from worker.queries.filters import Row
from worker.schema.models import Delivery, DestinationState
from worker.schema.states import DONE

# How many of the newest deliveries the query for ``last_sent_at`` reads.
_RECENT = 10_000


def listed(session: Session, policies: Mapping[str, DestinationPolicy]) -> list[Row]:
    """Every configured destination, and removed ones that still have pending deliveries."""
    states = {row.name: row for row in session.exec(select(DestinationState))}
    waiting, last_sent = _waiting(session), _last_sent(session)
    return [
        {
            "name": name,
            "kind": policies[name].kind if name in policies else None,
            "state": _state(name in policies, name in states and states[name].disabled_at),
            "since": states[name].disabled_at if name in states else None,
            "reason": states[name].reason if name in states else None,
            "waiting": waiting.get(name, 0),
            "last_sent_at": last_sent.get(name),
            "reveal": policies[name].reveal if name in policies else None,
            "fallback": policies[name].fallback if name in policies else None,
        }
        for name in sorted({*policies, *waiting})
    ]


def removed(session: Session, configured: Collection[str]) -> Mapping[str, int]:
    """The number of pending deliveries of each destination that is not configured any more."""
    waiting = _waiting(session)
    return {name: waiting[name] for name in sorted(waiting) if name not in configured}


def _state(configured: bool, disabled_at: object) -> str:
    if not configured:
        return "not configured"
    return "disabled" if disabled_at else "enabled"


def _waiting(session: Session) -> Mapping[str, int]:
    counted = (
        select(Delivery.destination, func.count())
        .where(col(Delivery.wake_at).is_not(None))
        .group_by(col(Delivery.destination))
    )
    return dict(session.exec(counted).all())


def _last_sent(session: Session) -> Mapping[str, object]:
    recent = (
        select(Delivery.destination, Delivery.sent_at)
        .where(col(Delivery.state) == DONE)
        .order_by(col(Delivery.id).desc())
        .limit(_RECENT)
        .subquery()
    )
    latest = select(recent.c.destination, func.max(recent.c.sent_at)).group_by(recent.c.destination)
    return dict(session.exec(latest).all())
