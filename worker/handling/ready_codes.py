"""Decides that a code may be delivered, and that its order is confirmed. No other module does."""

from __future__ import annotations

from sqlalchemy import update

from receiver.events import SmsReceived
from receiver.inbox.store import HANDLED, INBOX, QUARANTINED
from receiver.providers.base import normal_code
from receiver.vault.sealing import Vault
from worker.configuration.event_policy import EventPolicy
from worker.configuration.routing import Subject
from worker.orders import codes
from worker.orders import store as orders
from worker.orders.codes import KnownCode
from worker.orders.store import OrderRow
from worker.outbox.planner import Planner
from worker.schema.models import Code
from worker.schema.states import CODE_QUARANTINED, CONFIRM, CONFIRMED, HELD, READY, UNRECOGNISED


def subject(vault: Vault, order: OrderRow, event_type: str) -> Subject:
    """What routes match on, for an event of this type about the order."""
    return Subject(
        type=event_type,
        provider=order.provider,
        service=order.service,
        country=order.country,
        service_alias=order.service_alias,
        country_alias=order.country_alias,
        phone_number=order.open_number(vault),
        order_state=order.status,
    )


def plan_follow_ups(
    planner: Planner,
    vault: Vault,
    policy: EventPolicy,
    code: KnownCode | Code,
    order: OrderRow,
    *,
    time_is_certain: bool = True,
) -> None:
    """Plan the deliveries of a ready code or an unrecognised text, and confirm a code's order.

    A text may hold the code: only destinations that may see all of it get it, and nothing is
    charged. Nor is an order whose code came to a number that was swapped away, one that is
    confirmed already, or one that the policy leaves alone.
    """
    is_code = code.state != UNRECOGNISED
    names = policy.routing.of(subject(vault, order, SmsReceived.type))
    planner.plan_deliveries(
        [name for name in names if is_code or name in policy.full_reveal],
        SmsReceived.type,
        event_id=code.event_id,
        code_id=code.id,
        stale_at=codes.stale_at(code, order, time_is_certain=time_is_certain),
    )
    confirms = policy.confirms(order.provider, order.service, order.service_alias)
    if not is_code or not confirms or order.status == CONFIRMED:
        return
    if not orders.came_after_swap(planner.session, order, code.phone_digest, code.received_at):
        planner.plan_confirmation(
            CONFIRM,
            order.id,
            provider=code.provider,
            order_id=code.order_id,
            event_id=code.event_id,
            code_id=code.id,
        )


def set_code(planner: Planner, vault: Vault, policy: EventPolicy, message: Code, text: str) -> None:
    """Store the code that a person read in a message, and plan what follows."""
    order = orders.find_or_create(
        planner.session, message.provider, message.order_id, now=planner.now
    )
    code = codes.set_code(planner.session, vault, message, normal_code(text), now=planner.now)
    if code is not None:
        plan_follow_ups(planner, vault, policy, code, order)


def release(
    planner: Planner, vault: Vault, policy: EventPolicy, code_id: str, *, verified: bool
) -> None:
    """Make a held or quarantined code ready, and plan what follows."""
    code = planner.session.get(Code, code_id)
    if code is None:
        return
    code.state, code.verified = READY, verified
    order = orders.find_or_create(planner.session, code.provider, code.order_id, now=planner.now)
    plan_follow_ups(planner, vault, policy, code, order)


def release_verified(planner: Planner, vault: Vault, policy: EventPolicy, code_id: str) -> None:
    """Release a held or quarantined code: the provider itself reported it, which verifies it.

    A code that a person discarded stays discarded, and a purged one cannot be delivered.
    """
    locked = planner.session.get(Code, code_id, with_for_update=True, populate_existing=True)
    if locked is None or locked.code is None or locked.state not in {HELD, CODE_QUARANTINED}:
        return
    release(planner, vault, policy, locked.id, verified=True)
    planner.session.connection().execute(
        update(INBOX)
        .where(INBOX.c.id == locked.event_id, INBOX.c.state == QUARANTINED)
        .values(state=HANDLED, error=None)
    )
