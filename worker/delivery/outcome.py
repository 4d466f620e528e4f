"""The outcome of an attempt for each row of its message: decided and recorded.

One transaction, under the lock on the destination, writes the states of the rows, the retries for
recipients who did not get the message, whether the destination is disabled, and the notices to
the operators. A row whose lease was lost meanwhile is left to its new holder.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Final

import structlog

from worker.delivery import diversion, recipients, splitting
from worker.delivery.claim import ClaimedDelivery, Message
from worker.delivery.compose import DeliveryRow
from worker.delivery.destination_lock import LockedDestination
from worker.destinations.base import DeliveryError
from worker.outbox import backoff, leases
from worker.outbox.leases import Claim
from worker.schema.models import Delivery, table_of
from worker.schema.states import DEAD, DONE, OPERATORS, PENDING, UNKNOWN

MAX_ATTEMPTS = 15
# After this many permanent refusals in a row the destination is disabled.
MAX_REFUSALS = 5
_AFTER_UNKNOWN = timedelta(seconds=5)
_SHORTEST_PAUSE = timedelta(seconds=1)
# For this long, attempts do not count that a destination answers by asking for a pause, since it is
# alive, or that something else answers in its place, since it has not refused anything.
_LONGEST_PAUSED = timedelta(hours=24)
# A foreign answer is over as suddenly as it began: the pauses grow up to 8.5 minutes.
_MAX_FOREIGN_EXPONENT = 8
# The operators are told when something else has answered for this long.
FOREIGN_REPORTED_AFTER = timedelta(hours=1)
_TABLE = table_of(Delivery)
_ONE_MORE_FAILURE = _TABLE.c.failures + 1
_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Outcome:
    """The outcome of an attempt for one row: its final ``state``, or None for a retry."""

    state: str | None
    error: DeliveryError | None = None

    @property
    def reason(self) -> str | None:
        """The error text for an operator; None on success."""
        return self.error.reason if self.error is not None else None


_DONE: Final = Outcome(DONE)


def decide(
    locked: LockedDestination, delivery: ClaimedDelivery, error: DeliveryError | None
) -> Outcome:
    """Decide the outcome of an attempt for one row."""
    row, claimed = delivery.row, delivery.claimed
    if error is None:
        return _DONE
    repeats = locked.policy.on_unknown == "repeat"
    # Repeated once already, more would be noise; but the page of a proxy came in place of the
    # destination's answer, so each time it hardly ever got the message.
    enough = not error.foreign and (row.unsure or claimed.vanished)
    if error.unknown and (not repeats or enough or error.permanent):
        return Outcome(UNKNOWN, error)
    if error.permanent:
        return Outcome(DEAD, error)
    if error.retry_after is not None or error.foreign:
        over = locked.now - row.created_at > _LONGEST_PAUSED and locked.clock_is_steady
        end = UNKNOWN if error.unknown else DEAD
        return Outcome(end if over else None, error)
    return Outcome(DEAD if row.failures + 1 >= MAX_ATTEMPTS else None, error)


def record(
    locked: LockedDestination, finished: Sequence[tuple[Message, DeliveryError | None]]
) -> list[list[tuple[ClaimedDelivery, Outcome]]]:
    """Record finished messages; for each, the outcomes of the rows whose lease was not lost."""
    sent = [
        each
        for message, error in finished
        for each in message.deliveries
        if error is None and each.problem is None
    ]
    done = _write(locked, _DONE, sent) if sent else set()
    return [_record_message(locked, message, error, done) for message, error in finished]


def _record_message(
    locked: LockedDestination,
    message: Message,
    error: DeliveryError | None,
    done: Collection[Claim],
) -> list[tuple[ClaimedDelivery, Outcome]]:
    row_error, failed = recipients.split_error(locked, message, error)
    groups: dict[Outcome, list[ClaimedDelivery]] = {}
    for delivery in message.deliveries:
        groups.setdefault(decide(locked, delivery, delivery.problem or row_error), []).append(
            delivery
        )
    written: list[tuple[ClaimedDelivery, Outcome]] = []
    for decided, group in groups.items():
        outcome, ours = decided, _split(locked, message, decided, group)
        if ours is not None:
            outcome = Outcome(None, decided.error)
        elif decided == _DONE and error is None:
            ours = done
        else:
            ours = _write(locked, decided, group)
        still_ours = [delivery for delivery in group if delivery.claimed in ours]
        written += [(delivery, outcome) for delivery in still_ours]
        if outcome.error is not recipients.ALL_RECIPIENTS_FAILED:
            _follow_up(locked, outcome, [delivery.row for delivery in still_ours])
    _retry_recipients(
        locked, [delivery.row for delivery, _ in written if delivery.problem is None], failed
    )
    if any(delivery.problem is None for delivery in message.deliveries):
        _update_health(locked, message, row_error)
    return written


def _split(
    locked: LockedDestination,
    message: Message,
    outcome: Outcome,
    group: Sequence[ClaimedDelivery],
) -> Collection[Claim] | None:
    """Plan parts of a message that was refused for its content; None if it was not, or is alone."""
    error = outcome.error
    if outcome.state != DEAD or error is None or not error.message_only:
        return None
    if recipients.are_named_by(error) or group[0].problem is not None:
        return None
    rows = [(each.row, each.claimed) for each in group]
    return splitting.split(locked, message.id, rows, error)


def _write(
    locked: LockedDestination, outcome: Outcome, group: Sequence[ClaimedDelivery]
) -> set[Claim]:
    error, until = outcome.error, None
    values: dict[str, object] = {"state": outcome.state or PENDING, "error": outcome.reason}
    if error is None:
        values["sent_at"] = locked.now
    elif error.unknown:
        values["unsure"] = True
    if error is not None and error.retry_after is None and not error.foreign:
        values["failures"] = _ONE_MORE_FAILURE
    if error is not None and outcome.state is None:
        until = _retry_at(locked, error, group)
    claims = [delivery.claimed for delivery in group]
    return leases.release(locked.session, _TABLE, claims, until, **values)


def _retry_at(
    locked: LockedDestination, error: DeliveryError, group: Sequence[ClaimedDelivery]
) -> datetime:
    if error.retry_after is not None:
        pause = max(timedelta(seconds=error.retry_after), _SHORTEST_PAUSE)
        locked.state.blocked_until = max(
            locked.state.blocked_until or locked.now, locked.now + pause
        )
        return locked.now + pause
    if error.foreign:
        attempts = max(each.claimed.attempt for each in group)
        return locked.now + backoff.after(min(attempts, _MAX_FOREIGN_EXPONENT))
    failures = max(each.row.failures for each in group) + 1
    return locked.now + (_AFTER_UNKNOWN if error.unknown else backoff.after(failures))


def _update_health(
    locked: LockedDestination, message: Message, error: DeliveryError | None
) -> None:
    """Count permanent refusals in a row, and disable the destination when there are too many."""
    if error is not None and error.foreign:
        _note_foreign(locked, message.deliveries[0].row, error)
    elif error is None or error.permanent or error.retry_after is not None:  # its own words
        locked.state.foreign_since = locked.state.foreign_reported_at = None
    if error is None:
        locked.state.failures_in_row = 0
    elif message.deliveries[0].row.split_from is not None:
        return  # an extra message, of which there may be several
    elif error.permanent and not error.unknown and not error.message_only:
        locked.state.failures_in_row += 1
        if locked.state.failures_in_row >= MAX_REFUSALS:
            _disable(locked, message.deliveries[0].row, error.reason)


def _note_foreign(locked: LockedDestination, row: DeliveryRow, error: DeliveryError) -> None:
    """Note since when something else answers; tell the operators once if that is long ago."""
    state = locked.state
    state.foreign_since = state.foreign_since or locked.now
    ago = locked.now - state.foreign_since
    if ago < FOREIGN_REPORTED_AFTER or state.foreign_reported_at is not None:
        return
    state.foreign_reported_at = locked.now
    _log.warning("destination.foreign_answers", destination=locked.name, reason=error.reason)
    _notify_operators(
        locked,
        f"foreign:{locked.name}",
        row,
        f"{locked.name} has not answered itself for {ago // timedelta(minutes=1)} minutes: "
        f"{error.reason}. Its messages are retried for a day. "
        f"To check: codecatch destinations test {locked.name}",
    )


def _disable(locked: LockedDestination, row: DeliveryRow, reason: str) -> None:
    if locked.state.disabled_at is not None:
        return
    locked.state.disabled_at, locked.state.reason = locked.now, reason
    _log.warning("destination.disabled", destination=locked.name, reason=reason)
    fallback = locked.policy.fallback
    meanwhile = (
        f"Its messages go to {fallback} instead"
        if fallback
        else "Its messages wait for up to a day"
    )
    _notify_operators(
        locked,
        f"disabled:{locked.name}",
        row,
        f"{locked.name} is disabled: it refused {MAX_REFUSALS} messages in a row, the last with: "
        f"{reason}. {meanwhile}. Fix the cause, then run: "
        f"codecatch destinations enable {locked.name}",
    )


def _follow_up(locked: LockedDestination, outcome: Outcome, rows: Sequence[DeliveryRow]) -> None:
    """For rows that will not be sent: plan fallback deliveries and notify the operators."""
    if outcome.state not in {DEAD, UNKNOWN}:
        return
    fallback = locked.policy.fallback if outcome.state == DEAD else None
    if fallback is not None:
        diversion.plan_copies(
            locked.planner, fallback, [asdict(row) for row in rows if row.recipient is None]
        )
    # A failed notice must not cause another notice.
    reportable = [row for row in rows if row.type != OPERATORS]
    if reportable:
        _report(locked, reportable[0], reportable[0].id, outcome)


def _retry_recipients(
    locked: LockedDestination, rows: Sequence[DeliveryRow], failed: Mapping[str, DeliveryError]
) -> None:
    dead = recipients.plan_retries(locked, rows, failed)
    refused = next((error for error in failed.values() if error.permanent), None)
    reportable = [row for row in rows if row.type != OPERATORS]
    if dead and refused is not None and reportable:
        _report(locked, reportable[0], dead[0], Outcome(DEAD, refused))


def _report(
    locked: LockedDestination, row: DeliveryRow, delivery_id: str, outcome: Outcome
) -> None:
    what = "may not have arrived" if outcome.state == UNKNOWN else "failed"
    _notify_operators(
        locked,
        f"dead:{locked.name}",
        row,
        f"A delivery to {locked.name} {what}: {outcome.reason}. "
        f"To list: codecatch deliveries list --state {outcome.state}. "
        f"To retry: codecatch deliveries retry {delivery_id}",
    )


def _notify_operators(locked: LockedDestination, kind: str, row: DeliveryRow, detail: str) -> None:
    others = [name for name in locked.runtime.policy.routing.operators() if name != locked.name]
    locked.planner.plan_notice(others, kind, event_id=row.event_id, detail=detail)
