"""From a planned delivery to what it says: the one place that opens codes for telling."""

from __future__ import annotations

from sqlmodel import Session

from receiver.errors import CodecatchError
from receiver.inbox import RECONCILED, InboxEvent
from receiver.vault import Vault
from worker import codes
from worker.leases import Claim
from worker.messages import Notification
from worker.models import Code, Delivery


class CodePurged(CodecatchError):
    """A message about a code that is kept no longer."""


def compose(session: Session, vault: Vault, row: Delivery, claimed: Claim) -> Notification:
    """The facts of the delivery in hand; what may be a repetition is marked as one.

    Raises:
        UnknownKey, BrokenSeal: its code cannot be opened.
        CodePurged: there is nothing left to tell.
    """
    code = session.get(Code, row.code_id) if row.code_id else None
    marks = []
    if row.unsure or claimed.vanished:
        marks.append("repeated")
    if code is None:
        return Notification(
            delivery_id=row.id,
            event_id=row.event_id,
            type=row.type,
            provider="codecatch",
            marks=tuple(marks),
            detail=row.detail,
        )
    if code.code is None:
        raise CodePurged("its code was purged")
    if code.verified is False:
        marks.append("not verified")
    if _source(session, code) == RECONCILED:
        marks.append("reconciled")
    return Notification(
        delivery_id=row.id,
        event_id=row.event_id,
        type=row.type,
        provider=code.provider,
        order_id=code.order_id,
        phone_number=codes.open_field(vault, code, "phone_number"),
        service=code.service,
        country=code.country,
        code=codes.open_field(vault, code, "code"),
        text=codes.open_field(vault, code, "text"),
        received_at=code.received_at,
        marks=tuple(marks),
        detail=row.detail,
    )


def _source(session: Session, code: Code) -> str | None:
    """Where the first report of a code came from; None once that was purged."""
    event = session.get(InboxEvent, code.event_id)
    return event.source if event is not None else None
