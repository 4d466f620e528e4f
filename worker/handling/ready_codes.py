"""The one place that decides: this code may be delivered."""

from __future__ import annotations

from sqlalchemy import update

from receiver.events import SmsReceived
from receiver.inbox.store import HANDLED, INBOX, QUARANTINED
from receiver.vault.sealing import Vault
from worker.configuration.event_policy import EventPolicy
from worker.configuration.routing import Routing, Subject
from worker.orders import codes
from worker.orders import store as orders
from worker.orders.batch import Snapshot
from worker.orders.codes import KnownCode
from worker.outbox.planner import Planner
from worker.schema.models import Code
from worker.schema.states import CODE_QUARANTINED, CONFIRM, CONFIRMED, HELD, READY


def subject(order: Snapshot, event_type: str) -> Subject:
    """What a route may look at, for an event of this type about the order."""
    return Subject(
        type=event_type,
        provider=order.provider,
        service=order.service,
        country=order.country,
        phone_number=order.phone_number,
        order_state=order.status,
    )


def plan(planner: Planner, routing: Routing, code: KnownCode | Code, order: Snapshot) -> None:
    """Plan the deliveries of a code that may be delivered."""
    planner.deliveries_of(
        routing.of(subject(order, SmsReceived.type)),
        SmsReceived.type,
        event_id=code.event_id,
        code_id=code.id,
        stale_at=codes.stale_at(code, order),
    )


def plan_confirmation(
    planner: Planner, policy: EventPolicy, code: KnownCode, order: Snapshot
) -> None:
    """Plan to confirm the code's order, unless that is done or not wanted."""
    if order.status == CONFIRMED or not policy.confirms(order.provider, order.service):
        return
    planner.confirmation(
        CONFIRM,
        order.id,
        provider=code.provider,
        order_id=code.order_id,
        event_id=code.event_id,
        code_id=code.id,
    )


def release(
    planner: Planner, vault: Vault, routing: Routing, code_id: str, *, verified: bool
) -> None:
    """Make a held or quarantined code ready, and plan its deliveries."""
    code = planner.session.get(Code, code_id)
    if code is None:
        return
    code.state, code.verified = READY, verified
    order = orders.find_or_create(planner.session, code.provider, code.order_id, now=planner.now)
    plan(planner, routing, code, Snapshot.of(order, vault))


def release_verified(planner: Planner, vault: Vault, routing: Routing, code_id: str) -> None:
    """Release a code that the provider itself reported: it is verified by that.

    A code that a person has discarded stays so, and one that was purged cannot be delivered.
    """
    locked = planner.session.get(Code, code_id, with_for_update=True, populate_existing=True)
    if locked is None or locked.code is None or locked.state not in {HELD, CODE_QUARANTINED}:
        return
    release(planner, vault, routing, locked.id, verified=True)
    planner.session.connection().execute(
        update(INBOX)
        .where(INBOX.c.id == locked.event_id, INBOX.c.state == QUARANTINED)
        .values(state=HANDLED, error=None)
    )
