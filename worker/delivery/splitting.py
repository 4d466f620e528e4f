"""Finds the notification because of which a destination refuses a whole message.

The message is sent once more as plain text, if the destination has such a form, and then split in
halves until the reason is alone: the others are delivered, and only that one is dead. Each part is
a message like any other, claimed within the pace and recorded when it ends; which rows it has, and
how many extra messages there were so far, is in the rows, so that a crash loses and repeats
nothing. Once the destination's ``max_extra_sends`` are used up, each row that is left is retried
alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from sqlalchemy import Integer, String, bindparam, func, select, update
from ulid import ULID

from worker.delivery.compose import DeliveryRow
from worker.delivery.destination_lock import LockedDestination
from worker.destinations.base import DeliveryError
from worker.outbox import backoff, leases
from worker.outbox.leases import Claim
from worker.schema.models import Delivery, table_of
from worker.schema.states import PENDING

_TABLE = table_of(Delivery)
# The first extra message is the one as plain text; without such a form, the first two are halves.
_PLAIN: Final = 1
_HALVES: Final = 2
_IDS: Final = bindparam("ids", expanding=True, type_=String)
_USED: Final = select(func.max(_TABLE.c.extra_sends)).where(_TABLE.c.id.in_(_IDS))
_COUNT: Final = (
    update(_TABLE)
    .where(
        _TABLE.c.destination == bindparam("of", type_=String),
        _TABLE.c.wake_at.is_not(None),
        _TABLE.c.split_from == bindparam("refused", type_=String),
    )
    .values(extra_sends=bindparam("used", type_=Integer))
)
# A row whose message is itself shares no message.
_ITSELF: Final = _TABLE.c.id


def is_plain(row: DeliveryRow) -> bool:
    """Whether the row's next message is the one as plain text."""
    return row.split_from is not None and row.extra_sends == _PLAIN


def split(
    locked: LockedDestination,
    message_id: str,
    refused: Sequence[tuple[DeliveryRow, Claim]],
    error: DeliveryError,
) -> set[Claim] | None:
    """Plan the next messages for the rows of a refused one; None if the reason is alone.

    Returns the claims that still held.
    """
    row, most = refused[0][0], locked.destination.max_extra_sends
    ids = [each.id for each, _ in refused]
    used = locked.session.connection().scalar(_USED, {"ids": ids}) or 0
    family = row.split_from or message_id
    claims = [claim for _, claim in refused]
    if len(claims) == 1:
        return None
    if used == 0 and locked.destination.has_plain_text and most > 0:
        parts, used = [claims], _PLAIN
    elif used + _HALVES <= most:
        half = len(claims) // 2
        parts, used = [claims[:half], claims[half:]], used + _HALVES
    else:
        return _leave_alone(locked, claims, family, error)
    ours: set[Claim] = set()
    for part in parts:
        ours |= leases.release(
            locked.session, _TABLE, part, locked.now,
            state=PENDING, error=error.reason, message=str(ULID()), split_from=family,
        )  # fmt: skip
    bound = {"of": locked.name, "refused": family, "used": used}
    locked.session.connection().execute(_COUNT, bound)
    return ours


def _leave_alone(
    locked: LockedDestination, claims: Sequence[Claim], family: str, error: DeliveryError
) -> set[Claim]:
    """Retry each row alone, a little later."""
    return leases.release(
        locked.session, _TABLE, claims, locked.now + backoff.after(1),
        state=PENDING, error=error.reason, message=_ITSELF, split_from=family,
    )  # fmt: skip
