"""From stored events to their effects: claim, read, write everything in one commit, wake.

A batch shares one transaction. If that fails, each event is retried in a transaction by itself, so
that only the faulty event fails. A failed event keeps its reason, the operators are notified, and
it waits until it is replayed.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

import structlog
from billiard.exceptions import SoftTimeLimitExceeded
from sqlalchemy import Integer, Row, String, bindparam, func, select, text
from sqlalchemy.exc import SQLAlchemyError

from receiver import logs
from receiver.database.engine import UtcTime, persist
from receiver.database.followup import GRACE
from receiver.database.trouble import is_trouble
from receiver.errors import CodecatchError
from receiver.events import Event
from receiver.failpoints import reach
from receiver.inbox import store as inbox
from receiver.inbox.store import FAILED, INBOX, QUARANTINED
from receiver.providers.payload import parse_body
from receiver.providers.registry import registry
from worker.handling import effects
from worker.handling.effects import Context, EventHeader
from worker.orders import store as orders
from worker.outbox import leases
from worker.outbox.leases import Claim, LeaseLost
from worker.outbox.planner import NOTICE_SECONDS, Planner, planning
from worker.runtime.runtime import Runtime

LEASE = timedelta(seconds=9)
# Events in one transaction. A larger batch costs less per event, but blocks a receiver that writes
# to the same SQLite file for longer.
MAX_BATCH: Final = 64
_NEXT: Final = (
    select(INBOX.c.id)
    .where(leases.claimable(INBOX), INBOX.c.lease_until.is_(None))
    .order_by(INBOX.c.wake_at)
    .limit(bindparam("limit", type_=Integer))
)
_READ: Final = ("id", "provider", "body", "state", "error", "arrived_at", "source")
_ROWS: Final = (
    select(*(INBOX.c[name] for name in _READ))
    .where(INBOX.c.id.in_(bindparam("ids", expanding=True, type_=String)))
    .order_by(INBOX.c.id)
)
_FAILED_NOTICE: Final = "failed"
# More than these are not counted for a notice: it must not cost more, the more events fail.
_MOST_COUNTED: Final = 1_000
_NEWEST_FAILED: Final = (
    select(INBOX.c.handled_at)
    .where(INBOX.c.state == FAILED, text("state <> 'handled'"))  # as in the partial index
    .order_by(INBOX.c.id.desc())
    .limit(bindparam("limit", type_=Integer))
    .subquery()
)
_FAILED_SINCE: Final = select(func.count()).where(
    _NEWEST_FAILED.c.handled_at >= bindparam("since", type_=UtcTime)
)
_FAILURES: Final = {FAILED, QUARANTINED}
# A batch that takes longer is made smaller next time, long before its lease is over.
_SLOW_SECONDS: Final = LEASE.total_seconds() / 3
_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _ClaimedEvent:
    """A claimed event and the result of reading it: an event, or the reason why there is none.

    ``row`` has the columns :data:`_READ`.
    """

    claim: Claim
    row: Row[Any]
    event: Event | None = None
    failure: str | None = None
    order_id: str | None = None


@dataclass(slots=True)
class BatchSize:
    """How many events share a transaction in this process: fewer while the database is slow."""

    value: int = MAX_BATCH

    def adapt(self, seconds: float | None) -> None:
        """Note how long a batch took; None if it had to be given up."""
        if seconds is None or seconds > _SLOW_SECONDS:
            self.value = max(self.value // 2, 1)
        else:
            self.value = min(self.value + 1, MAX_BATCH)


_batch_size = BatchSize()


def handle(runtime: Runtime, ids: Sequence[str]) -> None:
    """Handle those of the stored events ``ids`` that are due and not leased.

    Raises:
        OperationalError, InterfaceError, TimeoutError: of SQLAlchemy; the database is in trouble.
        SoftTimeLimitExceeded: of Celery; the task has no time left. After either, the events that
            are not handled wait for the next attempt.
    """
    left = list(ids)
    while left:
        size = _batch_size.value
        _handle_batch(runtime, left[:size], size)
        del left[:size]


def _handle_batch(runtime: Runtime, ids: Sequence[str], size: int) -> None:
    batch = [_read(runtime, claim, row) for claim, row in _claim(runtime, ids, size)]
    if not batch:
        return
    reach("events.after_claim")
    began = time.monotonic()
    try:
        _commit_batch(runtime, batch)
    except Exception as error:
        if _is_not_theirs(error):
            _batch_size.adapt(None)
            _give_back(runtime, [each.claim for each in batch])
        raise
    _batch_size.adapt(time.monotonic() - began)


def _commit_batch(runtime: Runtime, batch: Sequence[_ClaimedEvent]) -> None:
    try:
        persist(lambda: _commit(runtime, batch))
    except Exception as error:
        if _is_not_theirs(error):
            raise
        _log.warning("events.batch_failed", events=len(batch), error=type(error).__name__)
        for claimed in batch:
            _handle_alone(runtime, claimed)


def _is_not_theirs(error: Exception) -> bool:
    """Whether no event is at fault: the database is in trouble, or the task has no time left."""
    return is_trouble(error) or isinstance(error, SoftTimeLimitExceeded)


def _give_back(runtime: Runtime, claims: Sequence[Claim]) -> None:
    """Release the claims that still hold: an expired lease would count as a crash of its holder."""
    with (
        suppress(SQLAlchemyError, SoftTimeLimitExceeded),
        runtime.database.transaction() as session,
    ):
        leases.release(session, INBOX, claims, runtime.database.now(session) + GRACE)


def _claim(runtime: Runtime, ids: Sequence[str], size: int) -> list[tuple[Claim, Row[Any]]]:
    """Claim those of ``ids`` that are free, and fill the batch up to ``size`` with other due ones.

    One more event in a batch costs little.
    """
    with runtime.database.transaction() as session:
        now = runtime.database.now(session)
        claimed = leases.claim(session, INBOX, ids, now=now, lease=LEASE)
        # An event that crashed a worker is handled alone.
        if len(claimed) < size and not any(each.vanished for each in claimed):
            bound = {**leases.times(now), "limit": size - len(claimed)}
            others = session.connection().scalars(_NEXT, bound).all()
            if others:
                claimed += leases.claim(session, INBOX, others, now=now, lease=LEASE)
        claims = {each.id: each for each in claimed}
        rows = session.connection().execute(_ROWS, {"ids": list(claims)}).all() if claims else ()
        return [(claims[row.id], row) for row in rows]


def _read(runtime: Runtime, claim: Claim, row: Row[Any]) -> _ClaimedEvent:
    if row.state == QUARANTINED:
        return _ClaimedEvent(claim, row)
    if claim.is_poison:
        return _ClaimedEvent(
            claim, row, failure=f"{claim.vanished} worker processes died while handling it"
        )
    try:
        body = inbox.open_body(runtime.vault, row)
        if body is None:
            return _ClaimedEvent(claim, row, failure="its body was purged")
        provider = registry().get(row.provider)
        if provider is None:
            return _ClaimedEvent(claim, row, failure=f"unknown provider: {row.provider}")
        payload = parse_body(body)
    except CodecatchError as error:
        return _ClaimedEvent(claim, row, failure=str(error))
    try:
        return _ClaimedEvent(claim, row, event=provider.read(payload))
    except CodecatchError as error:
        return _ClaimedEvent(claim, row, failure=str(error), order_id=provider.order_of(payload))
    except Exception as error:  # noqa: BLE001 - a bug in a reader: the event waits for a fix
        _log.exception("event.read_failed", event_id=row.id)
        return _ClaimedEvent(claim, row, failure=f"reading it failed: {type(error).__name__}")


def _handle_alone(runtime: Runtime, claimed: _ClaimedEvent) -> None:
    try:
        try:
            _commit(runtime, [claimed])
        except LeaseLost:
            raise
        except Exception as error:
            if _is_not_theirs(error):
                raise
            _log.exception("event.handling_failed", event_id=claimed.row.id)
            reason = f"handling it failed: {type(error).__name__}"
            _commit(runtime, [_ClaimedEvent(claimed.claim, claimed.row, failure=reason)])
    except LeaseLost as lost:
        _log.warning("event.lease_lost", event_id=claimed.row.id, reason=str(lost))


def _commit(runtime: Runtime, batch: Sequence[_ClaimedEvent]) -> None:
    """Write the effects and the end of every event of a batch in one transaction; then wake."""
    with planning(runtime.database) as planner:
        handled = _effects(Context(planner, runtime.vault, runtime.policy), batch)
        ends = [(each.claim, {**v, "handled_at": planner.now}) for each, v in handled]
        leases.finish_all(planner.session, INBOX, ends)
        planner.write()
        reach("events.before_commit")
    reach("events.after_commit")
    planner.wake(runtime.waker)
    _log_handled(handled)


def _log_handled(handled: Sequence[tuple[_ClaimedEvent, Mapping[str, Any]]]) -> None:
    """Write one line per event."""
    lines = [
        {
            "event_id": claimed.row.id,
            "state": values["state"],
            "type": values.get("type"),
            "reason": values.get("error"),
        }
        for claimed, values in handled
    ]
    logs.info_all(_log, "event.handled", [line for line in lines if line["state"] not in _FAILURES])
    for line in lines:
        if line["state"] in _FAILURES:
            _log.warning("event.handled", **line)


def _effects(
    context: Context, batch: Sequence[_ClaimedEvent]
) -> list[tuple[_ClaimedEvent, Mapping[str, Any]]]:
    """Write the effects of each event; return it with the final column values of its row."""
    events = [
        (each, EventHeader(each.row.id, each.row.arrived_at, each.row.source), each.event)
        for each in batch
        if each.event is not None
    ]
    _watch_orders(context, batch)
    applied = effects.apply(context, [(header, event) for _, header, event in events])
    handled = [(claimed, values) for (claimed, _, _), values in zip(events, applied, strict=True)]
    unread = [each for each in batch if each.event is None]
    _notify_operators(context, unread)
    return handled + [(each, _end_of_unread(each)) for each in unread]


def _watch_orders(context: Context, batch: Sequence[_ClaimedEvent]) -> None:
    """Make the orders known that unreadable events name: reconciliation asks about open orders."""
    named = {(each.row.provider, each.order_id) for each in batch if each.order_id is not None}
    for provider, order_id in sorted(named):
        if provider in context.policy.asking:
            now = context.planner.now
            orders.find_or_create(context.planner.session, provider, order_id, now=now)


def _end_of_unread(claimed: _ClaimedEvent) -> Mapping[str, Any]:
    """The final column values of an event that was not read."""
    if claimed.row.state == QUARANTINED:
        return {"state": QUARANTINED, "error": claimed.row.error}
    return {"state": FAILED, "error": claimed.failure}


def _notify_operators(context: Context, unread: Sequence[_ClaimedEvent]) -> None:
    """Plan a notice of the first event that is quarantined, and of the first one that failed."""
    planner, operators = context.planner, context.policy.routing.operators()
    quarantined = [each.row for each in unread if each.row.state == QUARANTINED]
    if quarantined:
        row = quarantined[0]
        planner.plan_notice(
            operators,
            "quarantined",
            event_id=row.id,
            detail=f"An event of {row.provider} was quarantined: {row.error}. "
            "To list: codecatch events list --state quarantined",
        )
    failed = [each for each in unread if each.row.state != QUARANTINED]
    if failed and not planner.is_noticed(operators, _FAILED_NOTICE):
        row = failed[0].row
        planner.plan_notice(
            operators,
            _FAILED_NOTICE,
            event_id=row.id,
            detail=f"An event of {row.provider} could not be read: {failed[0].failure}. It stays "
            f"stored. To show: codecatch events show {row.id}. To replay: codecatch events replay "
            f"{row.id}{_count_of_failures(planner, len(failed))}",
        )


def _count_of_failures(planner: Planner, failed: int) -> str:
    """Say how many events failed in the last minute, ``failed`` now among them; "" for one."""
    since = planner.now - timedelta(seconds=NOTICE_SECONDS)
    bound = {"since": since, "limit": _MOST_COUNTED}
    earlier = planner.session.connection().scalar(_FAILED_SINCE, bound) or 0
    if earlier + failed == 1:
        return ""
    least = "at least " if earlier >= _MOST_COUNTED else ""
    return (
        f". In the last minute, {least}{earlier + failed} events failed; to list: "
        "codecatch events list --state failed"
    )
