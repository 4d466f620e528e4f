"""Recipients of one message who did not get it, while others did: each goes on in a row alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta

from ulid import ULID

from receiver.database.engine import insert_once
from receiver.vault.sealing import Vault
from worker.delivery.claim import Message
from worker.delivery.compose import Row
from worker.delivery.destination_lock import LockedDestination
from worker.destinations.base import DeliveryError, Destination
from worker.outbox import backoff
from worker.schema.models import Delivery, table_of
from worker.schema.states import DEAD, PENDING

_TABLE = table_of(Delivery)
# Mixed answers to all recipients: the rows of each say how that goes on.
NOBODY = DeliveryError(
    "no recipient took it; each goes on by itself", permanent=True, of_message=True
)
GONE = DeliveryError(
    "the recipient is no longer one of this destination", permanent=True, of_message=True
)


def address_of(vault: Vault, destination: Destination, recipient: str) -> str | None:
    """The address behind a row's digest; None if the destination has it no more."""
    for address in destination.recipients:
        if digest(vault, address) == recipient:
            return address
    return None


def digest(vault: Vault, address: str) -> str:
    """What is written down of an address."""
    return vault.digest("recipient", address)


def apart(
    desk: LockedDestination, message: Message, error: DeliveryError | None
) -> tuple[DeliveryError | None, Mapping[str, DeliveryError]]:
    """What an error says of the message's rows, and of each recipient who goes on alone."""
    if error is None or not error.failed:
        return error, {}
    by_digest = {digest(desk.runtime.vault, each): why for each, why in error.failed.items()}
    if message.recipient is not None:
        return by_digest.get(message.recipient), {}
    if len(by_digest) >= len(desk.destination.recipients):
        return NOBODY, by_digest
    return None, by_digest


def plan(
    desk: LockedDestination, rows: Sequence[Row], failed: Mapping[str, DeliveryError]
) -> list[str]:
    """Plan each of ``rows`` for each recipient who did not get it; the ids of those given up."""
    given_up = []
    for row in rows:
        for recipient, error in failed.items():
            id_ = str(ULID())
            over = error.permanent
            until = desk.now + max(backoff.after(1), timedelta(seconds=error.retry_after or 0))
            insert_once(
                desk.session,
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
                    "state": DEAD if over else PENDING,
                    "error": error.reason,
                    "unsure": row.unsure or error.unknown,
                    "failures": 1,
                    "attempt": 1,
                    "vanished": 0,
                    "created_at": row.created_at,
                    "stale_at": row.stale_at,
                    "claimed_at": desk.now,
                    "next_attempt_at": until,
                    "wake_at": None if over else until,
                },
            )
            if over:
                given_up.append(id_)
    return given_up
