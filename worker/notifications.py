"""From planned deliveries to what they say: the one place that opens codes for telling.

A destination is given no more than its owner wants it to hold: what it may not reveal is masked
or left out here, before any of it leaves the database's side.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime

from receiver.errors import CodecatchError
from receiver.events import SmsReceived
from receiver.inbox import RECONCILED
from receiver.vault import Vault
from worker import codes, masks, orders
from worker.delivery_facts import About, Row
from worker.destination_policy import Reveal
from worker.destinations.base import DeliveryError
from worker.leases import Claim
from worker.messages import Notification

_OURSELVES = "codecatch"
# A text holds the code, and has no form that does not.
_MASKED = {"phone_number": masks.phone, "code": masks.code}


def compose(
    vault: Vault,
    held: Sequence[tuple[Row, About, Claim]],
    *,
    reveal: Reveal,
    now: datetime,
) -> list[Notification | DeliveryError]:
    """What each of the rows in hand says, at ``now``; or why that cannot be told."""
    return [
        _compose(
            vault, row, about, repeated=row.unsure or claimed.vanished > 0, reveal=reveal, now=now
        )
        for row, about, claimed in held
    ]


def _compose(
    vault: Vault, row: Row, about: About, *, repeated: bool, reveal: Reveal, now: datetime
) -> Notification | DeliveryError:
    of_code = about.code_row is not None and row.type == SmsReceived.type
    if of_code and about.code is None:
        return DeliveryError("its code was purged", permanent=True, of_message=True)
    try:
        secrets = _secrets(vault, about, reveal)
    except CodecatchError as error:
        return DeliveryError(str(error), permanent=True, of_message=True)
    return Notification(
        delivery_id=row.id,
        event_id=row.event_id,
        type=row.type,
        provider=about.provider or _OURSELVES,
        order_id=about.order_id,
        service=about.service or about.order_service,
        country=about.country or about.order_country,
        received_at=about.received_at,
        valid_until=about.expires_at if of_code else None,
        told_at=now,
        marks=tuple(_marks(row, about, now)) + (("repeated",) if repeated else ()),
        detail=row.detail,
        **secrets,
    )


def _marks(row: Row, about: About, now: datetime) -> Iterator[str]:
    if row.stale_at is not None and row.stale_at <= now:
        yield "late"
    if about.source == RECONCILED:
        yield "reconciled"
    if about.verified is False:
        yield "not verified"


def _secrets(vault: Vault, about: About, reveal: Reveal) -> dict[str, str | None]:
    """The code, its text and the number, as far as they may be shown."""
    if reveal == "none":
        return {}
    if about.code_row is None:
        number = None
        if about.order_row is not None:
            number = orders.open_number(vault, about.order_phone_number, order=about.order_row)
        return shown({"phone_number": number, "code": None, "text": None}, reveal)
    opened = {
        name: codes.open_sealed(vault, about.code_row, name, sealed)
        for name, sealed in (
            ("phone_number", about.phone_number),
            ("code", about.code),
            ("text", about.text),
        )
    }
    return shown(opened, reveal)


def shown(secrets: Mapping[str, str | None], reveal: Reveal) -> dict[str, str | None]:
    """What a destination may hold of a code, its text and its number, by their names."""
    if reveal == "full":
        return dict(secrets)
    forms = _MASKED if reveal == "masked" else {}
    return {name: forms[name](text) for name, text in secrets.items() if text and name in forms}
