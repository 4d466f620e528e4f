"""From stored events to their effects: claim, read, write everything in one commit, wake.

A batch shares one transaction. Where that fails, each of its events gets one of its own, so that
only the event to blame fails; its reason is kept in words, the operators are told, and it waits
until it is replayed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

import structlog
from sqlalchemy import Integer, Row, String, bindparam, select

from receiver import logs
from receiver.database.engine import TROUBLE, persist
from receiver.errors import CodecatchError
from receiver.events import Event
from receiver.failpoints import reach
from receiver.inbox import store as inbox
from receiver.inbox.store import FAILED, HANDLED, INBOX, QUARANTINED
from receiver.providers.registry import registry
from receiver.providers.strict_json import parse_object
from worker.handling import effects
from worker.handling.effects import Context, Stub
from worker.outbox import leases
from worker.outbox.leases import Claim, LeaseLost
from worker.outbox.planner import planning
from worker.runtime.runtime import Runtime

LEASE = timedelta(seconds=9)
# Events that are handled in one transaction, where so many wait. More would be cheaper for each,
# and keep a receiver that writes to the same SQLite file waiting.
MOST_TOGETHER: Final = 64
# Built once, since to build a statement costs more than to run it.
_NEXT: Final = (
    select(INBOX.c.id)
    .where(leases.available(INBOX), INBOX.c.lease_until.is_(None))
    .order_by(INBOX.c.wake_at)
    .limit(bindparam("most", type_=Integer))
)
_READ: Final = ("id", "provider", "body", "state", "error", "arrived_at", "source")
_ROWS: Final = (
    select(*(INBOX.c[name] for name in _READ))
    .where(INBOX.c.id.in_(bindparam("ids", expanding=True, type_=String)))
    .order_by(INBOX.c.id)
)
_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _Held:
    """A claimed event, and what became of reading it: an event, or why it has none.

    ``row`` has the columns :data:`_READ` of its row.
    """

    claimed: Claim
    row: Row[Any]
    event: Event | None = None
    failure: str | None = None


def handle(runtime: Runtime, ids: Sequence[str]) -> None:
    """Handle those of the stored events ``ids`` that are due and in nobody's hand."""
    for start in range(0, len(ids), MOST_TOGETHER):
        _handle(runtime, ids[start : start + MOST_TOGETHER])


def _handle(runtime: Runtime, ids: Sequence[str]) -> None:
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


def _claim(runtime: Runtime, ids: Sequence[str]) -> list[tuple[Claim, Row[Any]]]:
    """Those of ``ids`` that are free; and what waits besides, since one more costs little."""
    with runtime.database.transaction() as session:
        now = runtime.database.now(session)
        won = leases.claim(session, INBOX, ids, now=now, lease=LEASE)
        # An event that somebody died over stays alone.
        if len(won) < MOST_TOGETHER and not any(each.vanished for each in won):
            bound = {**leases.times(now), "most": MOST_TOGETHER - len(won)}
            others = session.connection().scalars(_NEXT, bound).all()
            if others:
                won += leases.claim(session, INBOX, others, now=now, lease=LEASE)
        claims = {each.id: each for each in won}
        rows = session.connection().execute(_ROWS, {"ids": list(claims)}).all() if claims else ()
        return [(claims[row.id], row) for row in rows]


def _read(runtime: Runtime, claimed: Claim, row: Row[Any]) -> _Held:
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
    with planning(runtime.database) as planner:
        ended = _effects(Context(planner, runtime.vault, runtime.policy), batch)
        ends = [(held.claimed, {**v, "handled_at": planner.now}) for held, v in ended]
        leases.finish_all(planner.session, INBOX, ends)
        planner.write()
        reach("events.before_commit")
    reach("events.after_commit")
    planner.wake(runtime.waker)
    _say(ended)


def _say(ended: Sequence[tuple[_Held, Mapping[str, Any]]]) -> None:
    """One line for each event."""
    usual = [(held.row.id, v["type"]) for held, v in ended if v["state"] == HANDLED]
    written = logs.write_handled(usual)
    for held, values in ended:
        if written and values["state"] == HANDLED:
            continue
        log: Callable[..., Any] = (
            _log.warning if values["state"] in {FAILED, QUARANTINED} else _log.info
        )
        log(
            "event.handled",
            event_id=held.row.id,
            state=values["state"],
            type=values.get("type"),
            reason=values.get("error"),
        )


def _effects(context: Context, batch: Sequence[_Held]) -> list[tuple[_Held, Mapping[str, Any]]]:
    """Write what each of the events brings about; with it, how the event ends."""
    events = [
        (held, Stub(held.row.id, held.row.arrived_at, held.row.source), held.event)
        for held in batch
        if held.event is not None
    ]
    applied = effects.apply(context, [(stub, event) for _, stub, event in events])
    ended = [(held, values) for (held, _, _), values in zip(events, applied, strict=True)]
    return ended + [(held, _unread(context, held)) for held in batch if held.event is None]


def _unread(context: Context, held: _Held) -> Mapping[str, Any]:
    """The end of an event that has none of its effects."""
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
