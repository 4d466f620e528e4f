"""Recipients who did not get a message that others got: each gets a separate row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta

from ulid import ULID

from receiver.database.engine import insert_once
from receiver.vault.sealing import Vault
from worker.delivery.claim import Message
from worker.delivery.compose import DeliveryRow
from worker.delivery.destination_lock import LockedDestination
from worker.destinations.base import DeliveryError, Destination
from worker.outbox import backoff
from worker.schema.models import Delivery, table_of
from worker.schema.states import DEAD, PENDING

_TABLE = table_of(Delivery)
# Every recipient failed, with different errors: each gets a separate row.
ALL_RECIPIENTS_FAILED = DeliveryError(
    "no recipient accepted it; each has a separate delivery now",
    permanent=True,
    message_only=True,
)
RECIPIENT_REMOVED = DeliveryError(
    "the recipient was removed from this destination", permanent=True, message_only=True
)


def are_named_by(error: DeliveryError) -> bool:
    """Whether the error is ours, about recipients, and not what the destination said."""
    return error in (ALL_RECIPIENTS_FAILED, RECIPIENT_REMOVED)


def address_of(vault: Vault, destination: Destination, recipient: str) -> str | None:
    """The address with this digest; None if the destination no longer has it."""
    for address in destination.recipients:
        if digest(vault, address) == recipient:
            return address
    return None


def digest(vault: Vault, address: str) -> str:
    """The keyed digest of an address, stored in its place."""
    return vault.digest("recipient", address)


def split_error(
    locked: LockedDestination, message: Message, error: DeliveryError | None
) -> tuple[DeliveryError | None, Mapping[str, DeliveryError]]:
    """Split an error into that of the message's rows and those of single recipients, by digest."""
    if error is None or not error.failed:
        return error, {}
    by_digest = {digest(locked.runtime.vault, each): why for each, why in error.failed.items()}
    if message.recipient is not None:
        return by_digest.get(message.recipient), {}
    if len(by_digest) >= len(locked.destination.recipients):
        return ALL_RECIPIENTS_FAILED, by_digest
    return None, by_digest


def plan_retries(
    locked: LockedDestination, rows: Sequence[DeliveryRow], failed: Mapping[str, DeliveryError]
) -> list[str]:
    """Plan each of ``rows`` again for each failed recipient; the ids of those that are dead."""
    dead = []
    for row in rows:
        for recipient, error in failed.items():
            id_ = str(ULID())
            until = locked.now + max(backoff.after(1), timedelta(seconds=error.retry_after or 0))
            insert_once(
                locked.session,
                _TABLE,
                {
                    "id": id_,
                    "key": f"{row.key}|{recipient}",
                    "destination": row.destination,
                    "type": row.type,
                    "event_id": row.event_id,
                    "code_id": row.code_id,
                    "detail": row.detail,
                    "recipient": recipient,
                    "state": DEAD if error.permanent else PENDING,
                    "error": error.reason,
                    "unsure": row.unsure or error.unknown,
                    "failures": 1,
                    "attempt": 1,
                    "vanished": 0,
                    "created_at": row.created_at,
                    "stale_at": row.stale_at,
                    "claimed_at": locked.now,
                    "next_attempt_at": until,
                    "wake_at": None if error.permanent else until,
                },
            )
            if error.permanent:
                dead.append(id_)
    return dead
