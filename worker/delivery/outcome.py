"""How an attempt ended, for each of the rows that a message told: decided, and written.

All of it is one transaction, under the lock on the destination: the rows' ends, what becomes of
recipients who did not get it, whether the destination is disabled, and who is told of that.
A row that was lost to somebody else meanwhile is left as that one has it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Final

import structlog

from worker.delivery import deferral, recipients
from worker.delivery.claim import Message, Told
from worker.delivery.compose import Row
from worker.delivery.destination_lock import LockedDestination
from worker.destinations.base import DeliveryError
from worker.outbox import backoff, leases
from worker.outbox.leases import Claim
from worker.schema.models import Delivery, table_of
from worker.schema.states import DEAD, DONE, OPERATORS, PENDING, UNKNOWN

MOST_ATTEMPTS = 15
# So many messages refused for good, one after the other, speak of the destination.
MOST_REFUSED = 5
_AFTER_UNKNOWN = timedelta(seconds=5)
_SHORTEST_PAUSE = timedelta(seconds=1)
# A destination that asks for pauses is alive: such attempts do not count, for this long.
_LONGEST_PAUSED = timedelta(hours=24)
_TABLE = table_of(Delivery)
_ONE_MORE_FAILURE = _TABLE.c.failures + 1
_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Ending:
    """How an attempt ended for a row: in ``state``, or for None it is tried again."""

    state: str | None
    error: DeliveryError | None = None

    @property
    def reason(self) -> str | None:
        """What went wrong, in words."""
        return self.error.reason if self.error is not None else None


_DONE: Final = Ending(DONE)


def decide(desk: LockedDestination, told: Told, error: DeliveryError | None) -> Ending:
    """The state that an attempt ends in for one row."""
    row, claimed = told.row, told.claimed
    if error is None:
        return _DONE
    repeats = desk.policy.on_unknown == "repeat"
    if error.unknown and (not repeats or row.unsure or claimed.vanished or error.permanent):
        return Ending(UNKNOWN, error)  # repeated once already: once more would be noise
    if error.permanent:
        return Ending(DEAD, error)
    if error.retry_after is not None:
        over = desk.now - row.created_at > _LONGEST_PAUSED
        return Ending(DEAD if over else None, error)
    return Ending(DEAD if row.failures + 1 >= MOST_ATTEMPTS else None, error)


def write(
    desk: LockedDestination, over: Sequence[tuple[Message, DeliveryError | None]]
) -> list[list[tuple[Told, Ending]]]:
    """Write how sendings ended: for each the rows that were still in this hand, with their ends."""
    told = [
        each
        for message, error in over
        for each in message.told
        if error is None and each.problem is None
    ]
    done = _write(desk, _DONE, told) if told else set()
    return [_write_one(desk, message, error, done) for message, error in over]


def _write_one(
    desk: LockedDestination, message: Message, error: DeliveryError | None, done: Collection[Claim]
) -> list[tuple[Told, Ending]]:
    of_all, failed = recipients.apart(desk, message, error)
    groups: dict[Ending, list[Told]] = {}
    for told in message.told:
        groups.setdefault(decide(desk, told, told.problem or of_all), []).append(told)
    written: list[tuple[Told, Ending]] = []
    for ending, group in groups.items():
        kept = done if ending == _DONE and error is None else _write(desk, ending, group)
        still_ours = [told for told in group if told.claimed in kept]
        written += [(told, ending) for told in still_ours]
        if ending.error is not recipients.NOBODY:
            _give_up(desk, ending, [told.row for told in still_ours])
    _go_on_alone(desk, [told.row for told, _ in written if told.problem is None], failed)
    if any(told.problem is None for told in message.told):
        _judge(desk, message, of_all)
    return written


def _write(desk: LockedDestination, ending: Ending, group: Sequence[Told]) -> set[Claim]:
    error, until = ending.error, None
    values: dict[str, object] = {"state": ending.state or PENDING, "error": ending.reason}
    if error is None:
        values["sent_at"] = desk.now
    elif error.unknown:
        values["unsure"] = True
    if error is not None and error.retry_after is None:
        values["failures"] = _ONE_MORE_FAILURE
    if error is not None and ending.state is None:
        until = _again(desk, error, max(told.row.failures for told in group) + 1)
    claims = [told.claimed for told in group]
    return leases.write_each(desk.session, _TABLE, claims, until, **values)


def _again(desk: LockedDestination, error: DeliveryError, failures: int) -> datetime:
    if error.retry_after is not None:
        pause = max(timedelta(seconds=error.retry_after), _SHORTEST_PAUSE)
        desk.state.blocked_until = max(desk.state.blocked_until or desk.now, desk.now + pause)
        return desk.now + pause
    return desk.now + (_AFTER_UNKNOWN if error.unknown else backoff.after(failures))


def _judge(desk: LockedDestination, message: Message, error: DeliveryError | None) -> None:
    """Disable the destination if it has refused everything for a while."""
    if error is None:
        desk.state.failures_in_row = 0
    elif error.permanent and not error.unknown and not error.of_message:
        desk.state.failures_in_row += 1
        if desk.state.failures_in_row >= MOST_REFUSED:
            _disable(desk, message.told[0].row, error.reason)


def _disable(desk: LockedDestination, row: Row, reason: str) -> None:
    if desk.state.disabled_at is not None:
        return
    desk.state.disabled_at, desk.state.reason = desk.now, reason
    _log.warning("destination.disabled", destination=desk.name, reason=reason)
    fallback = desk.policy.fallback
    meanwhile = f"{fallback} is told instead" if fallback else "what is for it waits, for a day"
    _tell_operators(
        desk,
        f"disabled:{desk.name}",
        row,
        f"{desk.name} is disabled: it refused {MOST_REFUSED} messages in a row, the last with: "
        f"{reason}. Meanwhile {meanwhile}. Put it right; then: "
        f"codecatch destinations enable {desk.name}",
    )


def _give_up(desk: LockedDestination, ending: Ending, rows: Sequence[Row]) -> None:
    """What follows for rows that will not be told here: a fallback, and the operators."""
    if ending.state not in {DEAD, UNKNOWN}:
        return
    fallback = desk.policy.fallback if ending.state == DEAD else None
    if fallback is not None:
        deferral.tell_instead(
            desk.planner, fallback, [asdict(row) for row in rows if row.recipient is None]
        )
    # A notice about a notice would never end.
    reportable = [row for row in rows if row.type != OPERATORS]
    if reportable:
        _report(desk, reportable[0], reportable[0].id, ending)


def _go_on_alone(
    desk: LockedDestination, rows: Sequence[Row], failed: Mapping[str, DeliveryError]
) -> None:
    given_up = recipients.plan(desk, rows, failed)
    refused = next((error for error in failed.values() if error.permanent), None)
    reportable = [row for row in rows if row.type != OPERATORS]
    if given_up and refused is not None and reportable:
        _report(desk, reportable[0], given_up[0], Ending(DEAD, refused))


def _report(desk: LockedDestination, row: Row, delivery_id: str, ending: Ending) -> None:
    could = "may not have been" if ending.state == UNKNOWN else "could not be"
    _tell_operators(
        desk,
        f"dead:{desk.name}",
        row,
        f"{desk.name} {could} told of a code or other news: {ending.reason}. "
        f"Look: codecatch deliveries list --state {ending.state}; "
        f"then: codecatch deliveries retry {delivery_id}",
    )


def _tell_operators(desk: LockedDestination, kind: str, row: Row, detail: str) -> None:
    others = [name for name in desk.runtime.policy.routing.operators() if name != desk.name]
    desk.planner.notice(others, kind, event_id=row.event_id, detail=detail)
