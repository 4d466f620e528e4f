"""One-time codes: stored once for each order, however often they are reported."""

from __future__ import annotations

from datetime import datetime, timedelta

from sqlmodel import Session, col, select
from ulid import ULID

from receiver.database import insert_once
from receiver.events import SmsReceived
from receiver.vault import Vault
from worker.models import Code, Order, table_of

# How long a code is taken to be of use where the provider does not say.
USUAL_VALIDITY = timedelta(minutes=20)
_CODES = table_of(Code)


def keep(
    session: Session,
    vault: Vault,
    event: SmsReceived,
    *,
    event_id: str,
    state: str,
    verified: bool | None = None,
    now: datetime,
) -> Code:
    """The code that ``event`` reports: a new row in ``state``, or the one it repeats.

    Only a row whose ``event_id`` is the given one was reported by this event first.
    """
    row = str(ULID())
    digest = vault.digest("code", event.code)

    def sealed(column: str, value: str | None) -> bytes | None:
        if value is None:
            return None
        return vault.seal(value, table=_CODES.name, column=column, row=row)

    insert_once(
        session,
        _CODES,
        {
            "id": row,
            "provider": event.provider,
            "order_id": event.order_id,
            "event_id": event_id,
            "code": sealed("code", event.code),
            "code_digest": digest,
            "text": sealed("text", event.text),
            "phone_number": sealed("phone_number", event.phone_number),
            "phone_digest": event.phone_number and vault.digest("phone", event.phone_number),
            "service": event.service,
            "country": event.country,
            "state": state,
            "verified": verified,
            "received_at": event.at,
            "stored_at": now,
        },
    )
    return session.exec(
        select(Code).where(
            col(Code.provider) == event.provider,
            col(Code.order_id) == event.order_id,
            col(Code.code_digest) == digest,
        )
    ).one()


def open_field(vault: Vault, code: Code, column: str) -> str | None:
    """The plain ``code``, ``text`` or ``phone_number`` of a code; None once it was purged."""
    return vault.open_text(getattr(code, column), table=_CODES.name, column=column, row=code.id)


def stale_at(code: Code, order: Order) -> datetime:
    """When a code is no longer worth hurrying for: its order's end, or what is usual."""
    return order.expires_at or (code.received_at or code.stored_at) + USUAL_VALIDITY
