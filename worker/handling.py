"""From stored events to their effects: claim, read, write everything in one commit, wake.

A batch shares one transaction. Where that fails, each of its events gets one of its own, so that
only the event to blame fails; its reason is kept in words, the operators are told, and it waits
until it is replayed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import structlog
from sqlmodel import col, select

from receiver import inbox
from receiver.database import TROUBLE, persist
from receiver.errors import CodecatchError
from receiver.events import Event
from receiver.failpoints import reach
from receiver.inbox import FAILED, INBOX, QUARANTINED, InboxEvent
from receiver.json_object import parse_object
from receiver.providers import registry
from worker import event_handlers, leases
from worker.event_handlers import Context, Stub
from worker.followups import Planner
from worker.leases import Claim, LeaseLost
from worker.runtime import Runtime

LEASE = timedelta(seconds=9)
_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _Held:
    """A claimed event, and what became of reading it: an event, or why it has none."""

    claimed: Claim
    row: InboxEvent
    event: Event | None = None
    failure: str | None = None


def handle(runtime: Runtime, ids: Sequence[str]) -> None:
    """Handle those of the stored events ``ids`` that are due and in nobody's hand."""
    held = [_read(runtime, claimed, row) for claimed, row in _claim(runtime, ids)]
    if not held:
        return
    reach("events.after_claim")
    try:
        persist(lambda: _commit(runtime, held))
    except TROUBLE:
        raise  # the database is in trouble, not the events: their leases run out, others follow
    except Exception as error:  # noqa: BLE001 - whatever a handler raises must not stop its neighbours
        _log.warning("events.batch_broke", events=len(held), error=type(error).__name__)
        for one in held:
            _handle_alone(runtime, one)


def _claim(runtime: Runtime, ids: Sequence[str]) -> list[tuple[Claim, InboxEvent]]:
    with runtime.database.transaction() as session:
        now = runtime.database.now(session)
        claims = {c.id: c for c in leases.claim(session, INBOX, ids, now=now, lease=LEASE)}
        rows = session.exec(
            select(InboxEvent).where(col(InboxEvent.id).in_(claims)).order_by(col(InboxEvent.id))
        ).all()
        return [(claims[row.id], row) for row in rows]


def _read(runtime: Runtime, claimed: Claim, row: InboxEvent) -> _Held:
    if row.state == QUARANTINED:
        return _Held(claimed, row)
    if claimed.given_up:
        return _Held(
            claimed, row, failure=f"{claimed.vanished} worker processes died while handling it"
        )
    try:
        body = inbox.open_body(runtime.vault, row)
        if body is None:
            return _Held(claimed, row, failure="its body was purged")
        provider = registry().get(row.provider)
        if provider is None:
            return _Held(claimed, row, failure=f"no provider is called {row.provider}")
        return _Held(claimed, row, event=provider.read(parse_object(body)))
    except CodecatchError as error:
        return _Held(claimed, row, failure=str(error))
    except Exception as error:  # noqa: BLE001 - a bug in a reader: this event waits for its fix
        _log.exception("event.reader_broke", event_id=row.id)
        return _Held(claimed, row, failure=f"the reader broke: {type(error).__name__}")


def _handle_alone(runtime: Runtime, held: _Held) -> None:
    try:
        try:
            _commit(runtime, [held])
        except (LeaseLost, *TROUBLE):
            raise
        except Exception as error:  # noqa: BLE001 - a handler's bug: this event waits for its fix
            _log.exception("event.handler_broke", event_id=held.row.id)
            reason = f"the handler broke: {type(error).__name__}"
            _commit(runtime, [_Held(held.claimed, held.row, failure=reason)])
    except LeaseLost as lost:
        _log.warning("event.lease_lost", event_id=held.row.id, reason=str(lost))


def _commit(runtime: Runtime, batch: Sequence[_Held]) -> None:
    """All effects of a batch, each event's end among them, in one transaction; then wake."""
    ended: list[tuple[str, Mapping[str, Any]]] = []
    with runtime.database.transaction() as session:
        planner = Planner(session, runtime.database.now(session))
        context = Context(planner, runtime.vault, runtime.policy)
        # Everybody locks in one sequence, or two batches could wait for each other: the orders
        # first, then the notices, whose keys are shared by all events of a kind.
        for held in sorted(batch, key=_lock_order):
            values = _end(context, held)
            leases.finish(session, INBOX, held.claimed, handled_at=planner.now, **values)
            ended.append((held.row.id, values))
        reach("events.before_commit")
    reach("events.after_commit")
    planner.wake(runtime.waker)
    for event_id, values in ended:
        log: Callable[..., Any] = (
            _log.warning if values["state"] in {FAILED, QUARANTINED} else _log.info
        )
        log(
            "event.handled",
            event_id=event_id,
            state=values["state"],
            type=values.get("type"),
            reason=values.get("error"),
        )


def _lock_order(held: _Held) -> tuple[bool, bool, str, str, str]:
    order_id = getattr(held.event, "order_id", "")
    quarantined = held.row.state == QUARANTINED
    return (held.event is None, quarantined, held.row.provider, order_id, held.row.id)


def _end(context: Context, held: _Held) -> Mapping[str, Any]:
    if held.event is not None:
        stub = Stub(held.row.id, held.row.arrived_at, held.row.source)
        return event_handlers.apply(context, stub, held.event)
    operators = context.policy.routing.operators()
    if held.row.state == QUARANTINED:
        context.planner.notice(
            operators,
            "quarantined",
            event_id=held.row.id,
            detail=f"An event of {held.row.provider} was quarantined: {held.row.error}. "
            "Look: codecatch events list --state quarantined",
        )
        return {"state": QUARANTINED, "error": held.row.error}
    context.planner.notice(
        operators,
        "failed",
        event_id=held.row.id,
        detail=f"An event of {held.row.provider} could not be read: {held.failure}. It is kept. "
        f"Look: codecatch events show {held.row.id}; then: codecatch events replay {held.row.id}",
    )
    return {"state": FAILED, "error": held.failure}
