"""Taking a destination's next messages in hand: which rows they tell, and how many may be sent.

All that decides it is looked at under the lock on the destination's row: whether it is disabled,
asked for a pause or has its quiet hours, how much of its pace is left, and what waits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from ulid import ULID

from worker.delivery import compose, deferral, selection
from worker.delivery.compose import Row
from worker.delivery.deferral import ANY, CODES, NOTICES, OTHERS
from worker.delivery.destination_lock import LockedDestination
from worker.delivery.selection import Candidate
from worker.delivery.sender_pool import Round, Turn
from worker.delivery.token_bucket import TokenBucket
from worker.destinations.base import DeliveryError
from worker.messages.text import Notification
from worker.outbox import leases
from worker.outbox.leases import MARGIN, Claim
from worker.schema.models import Delivery, table_of
from worker.schema.states import SENDING

# A sender waits for a turn that is this near; a later one is for the sweep to remember.
_NEAR = timedelta(seconds=1)
# After this long past a turn, whoever waited for it is taken for lost.
_PATIENCE = timedelta(seconds=2)
# How long the rows of a disabled destination are left alone; enabling it wakes them.
_UNTIL_ENABLED = timedelta(minutes=10)
# How long before the sweep looks again whether somebody is done who would have gone on.
_WHILE_BUSY = timedelta(seconds=5)
_TABLE = table_of(Delivery)


@dataclass(frozen=True, slots=True)
class Told:
    """One row in hand, and what it says, or why that cannot be told."""

    row: Row
    claimed: Claim
    notification: Notification | DeliveryError

    @property
    def problem(self) -> DeliveryError | None:
        """Why it cannot be told, if so."""
        return self.notification if isinstance(self.notification, DeliveryError) else None


@dataclass(frozen=True, slots=True)
class Message:
    """Rows that are told together; ``recipient`` is the digest of the only one they are for."""

    id: str
    told: tuple[Told, ...]

    @property
    def recipient(self) -> str | None:
        """The digest of the one recipient that it is for; None for all."""
        return self.told[0].row.recipient


def take(desk: LockedDestination, following: Round) -> Sequence[Message] | Turn:
    """The destination's next messages, claimed, as many as may be sent now; or when one may be."""
    state = desk.state
    if following.waited:
        state.awaited_until = None
    if state.disabled_at is not None:
        _set_aside(desk)
        return ()
    if state.blocked_until is not None and state.blocked_until > desk.now:
        deferral.put_off(desk.session, desk.name, desk.now, state.blocked_until)
        return ()
    quiet = desk.policy.quiet_hours
    quiet_until = quiet.until(desk.now) if quiet is not None else None
    if quiet_until is not None:
        _keep_quiet(desk, quiet_until)
    # A message that reports trouble breaks the quiet.
    which = ANY if quiet_until is None else NOTICES
    together = desk.destination.most_together
    most = following.places * together if desk.policy.coalesce else max(following.places, together)
    waiting = selection.candidates(desk.session, desk.name, desk.now, most + 1, which)
    if not waiting:
        return ()
    places = desk.policy.most_in_hand - selection.in_hand(desk.session, desk.name, desk.now)
    if places <= 0:  # whoever is done first takes the next
        deferral.put_off(desk.session, desk.name, desk.now, desk.now + _WHILE_BUSY)
        return ()
    places = min(places, following.places)
    pace = TokenBucket(desk.policy.per_second, desk.policy.burst)
    room = pace.room(state.spent_until, desk.now)
    if room is not None and room < 1:
        turn = pace.next_turn(state.spent_until, desk.now)
        return _out_of_turn(desk, turn, may_wait=following.goes_on)
    messages = _messages(desk, waiting, places if room is None else min(places, room))
    for _ in messages:
        state.spent_until = pace.spend(state.spent_until, desk.now)
    if following.hushes and sum(len(each.told) for each in messages) < len(waiting):
        deferral.put_off(desk.session, desk.name, desk.now, desk.now + _WHILE_BUSY)
    return messages


def _messages(desk: LockedDestination, waiting: Sequence[Candidate], places: int) -> list[Message]:
    """What waits, in at most so many messages; rows share one only where they must."""
    crowded = desk.policy.coalesce and len(waiting) > places
    left = list(waiting)
    chosen: list[list[str]] = []
    while left and len(chosen) < places:
        shared = crowded or left[0].again
        ids = selection.together(left, desk.destination.most_together if shared else 1)
        left = [each for each in left if each.id not in ids]
        chosen.append(ids)
    return _composed(desk, _claim(desk, chosen))


def _claim(
    desk: LockedDestination, chosen: Sequence[Sequence[str]]
) -> list[tuple[str, list[Claim]]]:
    """For each message its id and the rows that it tells, in hand.

    A message that tells one row has that row's id, so that all of them are one statement.
    """
    alone = [ids[0] for ids in chosen if len(ids) == 1]
    claimed = [(each.id, [each]) for each in _take(desk, alone, _TABLE.c.id)] if alone else []
    for ids in chosen:
        if len(ids) > 1:
            id_ = str(ULID())
            claimed.append((id_, _take(desk, ids, id_)))
    return claimed


def _take(desk: LockedDestination, ids: Sequence[str], message: object) -> list[Claim]:
    lease = timedelta(seconds=desk.destination.deadline) + MARGIN
    return leases.claim(
        desk.session, _TABLE, ids, now=desk.now, lease=lease, together=True,
        state=SENDING, message=message, claimed_at=leases.NOW,
    )  # fmt: skip


def _composed(
    desk: LockedDestination, claimed: Sequence[tuple[str, Sequence[Claim]]]
) -> list[Message]:
    ids = [each.id for _, claims in claimed for each in claims]
    facts = compose.read(desk.session, ids)
    held = [(*facts[each.id], each) for _, claims in claimed for each in claims]
    said = compose.compose(desk.runtime.vault, held, reveal=desk.policy.reveal, now=desk.now)
    told = {row.id: Told(row, one, words) for (row, _, one), words in zip(held, said, strict=True)}
    return [Message(id_, tuple(told[c.id] for c in claims)) for id_, claims in claimed if claims]


def _set_aside(desk: LockedDestination) -> None:
    """What becomes of a disabled destination's rows."""
    reason = f"{desk.name} is disabled"
    fallback = desk.policy.fallback
    if fallback is not None and deferral.divert(desk.planner, desk.name, fallback, reason):
        return  # the sweep wakes the rest soon
    too_old = desk.now - deferral.LONGEST_WAIT
    deferral.give_up(desk.session, desk.name, too_old, f"{reason}, and was for a day")
    deferral.put_off(desk.session, desk.name, desk.now, desk.now + _UNTIL_ENABLED)


def _keep_quiet(desk: LockedDestination, until: datetime) -> None:
    """Codes are told elsewhere if they can be; the rest waits, but for notices of trouble."""
    fallback, reason = desk.policy.fallback, f"{desk.name} has its quiet hours"
    if fallback is not None and deferral.divert(desk.planner, desk.name, fallback, reason, CODES):
        return  # the sweep wakes the rest soon
    deferral.put_off(desk.session, desk.name, desk.now, until, OTHERS)


def _out_of_turn(
    desk: LockedDestination, turn: datetime, *, may_wait: bool
) -> Sequence[Message] | Turn:
    """One sender waits for a near turn, and everything else for that sender."""
    awaited = desk.state.awaited_until
    # One that is further ahead was written under a clock that has jumped since.
    is_awaited = awaited is not None and desk.now < awaited <= desk.now + _NEAR + _PATIENCE
    waits = may_wait and not is_awaited and turn - desk.now <= _NEAR
    if waits:
        desk.state.awaited_until = turn + _PATIENCE
    later = turn + _PATIENCE if waits or is_awaited else turn
    deferral.put_off(desk.session, desk.name, desk.now, later)
    return Turn((turn - desk.now).total_seconds()) if waits else ()
