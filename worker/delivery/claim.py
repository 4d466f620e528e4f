"""Claims a destination's next messages: which rows go into them, and how many may be sent.

Every decision is made under the lock on the destination's row: whether it is disabled, paused or
in its quiet hours, how much of its pace is left, and which rows wait.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from ulid import ULID

from worker.delivery import compose, deferral, diversion, selection, splitting
from worker.delivery.compose import DeliveryRow
from worker.delivery.deferral import ANY, CODES, NOTICES, OTHERS
from worker.delivery.destination_lock import LockedDestination
from worker.delivery.selection import Candidate
from worker.delivery.sender_pool import ClaimRequest, Throttled
from worker.delivery.token_bucket import TokenBucket
from worker.destinations.base import DeliveryError
from worker.messages.text import Notification
from worker.outbox import leases
from worker.outbox.leases import MARGIN, Claim
from worker.schema.models import Delivery, table_of
from worker.schema.states import SENDING

# A dispatcher waits this long at most until the pace allows a message; otherwise the sweep wakes
# the rows. Without a wait, a pace faster than ``burst`` messages between two sweeps is not reached.
_MAX_WAIT = timedelta(seconds=1)
# This long after the wait the sweep wakes the rows: their dispatcher is taken for lost.
_WAIT_GRACE = timedelta(seconds=2)
# How long rows are postponed while other messages are in flight: when the next one finishes, its
# dispatcher claims them, and the sweep only checks that it did.
_BUSY_RECHECK = timedelta(seconds=5)
_TABLE = table_of(Delivery)


@dataclass(frozen=True, slots=True)
class ClaimedDelivery:
    """A claimed row with its notification, or with the reason why there is none."""

    row: DeliveryRow
    claimed: Claim
    notification: Notification | DeliveryError

    @property
    def problem(self) -> DeliveryError | None:
        """Why it cannot be sent; None if it can."""
        return self.notification if isinstance(self.notification, DeliveryError) else None


@dataclass(frozen=True, slots=True)
class Message:
    """Rows that are sent together."""

    id: str
    deliveries: tuple[ClaimedDelivery, ...]

    @property
    def recipient(self) -> str | None:
        """The digest of its only recipient; None if it is for all of them."""
        return self.deliveries[0].row.recipient

    @property
    def is_plain(self) -> bool:
        """Whether it is the repetition, as plain text, of a message that was refused."""
        return splitting.is_plain(self.deliveries[0].row)


def claim_messages(
    locked: LockedDestination, request: ClaimRequest
) -> Sequence[Message] | Throttled:
    """Claim as many messages as may be sent now, or return when the pace allows the next one."""
    state = locked.state
    if state.disabled_at is not None:
        _handle_disabled(locked)
        return ()
    if state.blocked_until is not None and state.blocked_until > locked.now:
        deferral.postpone(locked.session, locked.name, locked.now, state.blocked_until)
        return ()
    quiet = locked.policy.quiet_hours
    quiet_until = quiet.until(locked.now) if quiet is not None else None
    if quiet_until is not None:
        _handle_quiet_hours(locked, quiet_until)
    # Notices to the operators are sent in quiet hours too.
    which = ANY if quiet_until is None else NOTICES
    max_batch = locked.destination.max_batch
    most = (
        request.free_slots * max_batch
        if locked.policy.coalesce
        else max(request.free_slots, max_batch)
    )
    waiting = selection.candidates(locked.session, locked.name, locked.now, most + 1, which)
    if not waiting:
        return ()
    in_flight = selection.in_flight(locked.session, locked.name, locked.now)
    free_slots = locked.policy.max_in_flight - in_flight
    if free_slots <= 0:  # the dispatcher of the next message to finish claims these rows
        deferral.postpone(locked.session, locked.name, locked.now, locked.now + _BUSY_RECHECK)
        return ()
    free_slots = min(free_slots, request.free_slots)
    pace = TokenBucket(locked.policy.per_second, locked.policy.burst)
    tokens = pace.available(state.spent_until, locked.now)
    if tokens is not None and tokens < 1:
        allowed_at = pace.next_allowed_at(state.spent_until, locked.now)
        return _throttle(locked, allowed_at)
    messages = _batch(locked, waiting, free_slots if tokens is None else min(free_slots, tokens))
    for _ in messages:
        state.spent_until = pace.spend(state.spent_until, locked.now)
    if request.postpone_rest and sum(len(each.deliveries) for each in messages) < len(waiting):
        deferral.postpone(locked.session, locked.name, locked.now, locked.now + _BUSY_RECHECK)
    return messages


def _batch(
    locked: LockedDestination, waiting: Sequence[Candidate], max_messages: int
) -> list[Message]:
    """Claim waiting rows in at most ``max_messages`` messages; rows share one only if they must.

    They must where there are more rows than messages, where they may have been sent together, and
    where they are a part of a refused message.
    """
    crowded = locked.policy.coalesce and len(waiting) > max_messages
    left = list(waiting)
    batches: list[list[str]] = []
    while left and len(batches) < max_messages:
        shared = crowded or left[0].has_company
        ids = selection.next_batch(left, locked.destination.max_batch if shared else 1)
        left = [each for each in left if each.id not in ids]
        batches.append(ids)
    return _compose(locked, _claim(locked, batches))


def _claim(
    locked: LockedDestination, batches: Sequence[Sequence[str]]
) -> list[tuple[str, list[Claim]]]:
    """Claim the rows of each batch; return message ids with the claimed rows.

    A message of one row has that row's id, so that one statement claims all such messages.
    """
    singles = [ids[0] for ids in batches if len(ids) == 1]
    claimed = (
        [(each.id, [each]) for each in _claim_rows(locked, singles, _TABLE.c.id)] if singles else []
    )
    for ids in batches:
        if len(ids) > 1:
            id_ = str(ULID())
            claimed.append((id_, _claim_rows(locked, ids, id_)))
    return claimed


def _claim_rows(locked: LockedDestination, ids: Sequence[str], message: object) -> list[Claim]:
    lease = timedelta(seconds=locked.destination.deadline) + MARGIN
    return leases.claim(
        locked.session, _TABLE, ids, now=locked.now, lease=lease, include_expired=True,
        state=SENDING, message=message, claimed_at=leases.NOW,
    )  # fmt: skip


def _compose(
    locked: LockedDestination, claimed: Sequence[tuple[str, Sequence[Claim]]]
) -> list[Message]:
    ids = [each.id for _, claims in claimed for each in claims]
    contents = compose.read(locked.session, ids)
    rows = [(*contents[each.id], each) for _, claims in claimed for each in claims]
    notifications = compose.compose(
        locked.runtime.vault, rows, reveal=locked.policy.reveal, now=locked.now
    )
    by_id = {
        row.id: ClaimedDelivery(row, claim, notification)
        for (row, _, claim), notification in zip(rows, notifications, strict=True)
    }
    return [Message(id_, tuple(by_id[c.id] for c in claims)) for id_, claims in claimed if claims]


def _handle_disabled(locked: LockedDestination) -> None:
    """Move the rows to the fallback if there is one; else expire old ones, postpone the rest."""
    reason = f"{locked.name} is disabled"
    fallback = locked.policy.fallback
    if fallback is not None and diversion.to_fallback(
        locked.planner, locked.name, fallback, reason
    ):
        return  # the sweep wakes the rest soon
    if locked.clock_is_steady:
        too_old = locked.now - deferral.MAX_AGE
        deferral.expire(locked.session, locked.name, too_old, f"{reason} and has been for a day")
    deferral.postpone(locked.session, locked.name, locked.now, locked.now + deferral.RECHECK)


def _handle_quiet_hours(locked: LockedDestination, until: datetime) -> None:
    """Move codes to the fallback if there is one; postpone everything else except notices."""
    fallback, reason = locked.policy.fallback, f"{locked.name} is in its quiet hours"
    if fallback is not None and diversion.to_fallback(
        locked.planner, locked.name, fallback, reason, CODES
    ):
        return  # the sweep wakes the rest soon
    deferral.postpone(locked.session, locked.name, locked.now, until, OTHERS)


def _throttle(locked: LockedDestination, allowed_at: datetime) -> Sequence[Message] | Throttled:
    """Postpone the rows; let the dispatcher wait for them if ``allowed_at`` is soon."""
    wait = allowed_at - locked.now
    waits = wait <= _MAX_WAIT
    later = allowed_at + _WAIT_GRACE if waits else allowed_at
    deferral.postpone(locked.session, locked.name, locked.now, later)
    return Throttled(wait.total_seconds()) if waits else ()
