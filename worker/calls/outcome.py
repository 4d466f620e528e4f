"""Looks up the outcome of a call that may or may not have succeeded; never repeats the call."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlmodel import Session

from receiver.database.engine import Database
from receiver.vault.sealing import Vault
from worker.calls.caller import Caller
from worker.calls.record import record
from worker.orders import store as orders
from worker.providers.base import Call, ProviderApi
from worker.providers.reported_order import ReportedOrder
from worker.providers.results import Page, Result
from worker.schema.states import OPEN_STATES

# How far the provider's clock and ours may differ.
_CLOCK_SKEW = timedelta(minutes=2)


@dataclass(frozen=True, slots=True)
class CallOutcome:
    """What a lookup at the provider showed.

    Attributes:
        done: the call succeeded; False means only that nothing proves it.
        order: the current state of the order that the call was about.
        new_orders: orders created since the call that were unknown here; they are recorded now.
    """

    done: bool = False
    order: Result | None = None
    new_orders: tuple[ReportedOrder, ...] = ()


def lookup_arguments(
    client: type[ProviderApi], lookup: Call, arguments: Mapping[str, object]
) -> dict[str, object]:
    """Those of a call's ``arguments`` that its lookup call requires."""
    parameters = inspect.signature(getattr(client, lookup.name)).parameters.values()
    return {
        each.name: arguments[each.name]
        for each in parameters
        if each.default is each.empty and each.name != "self"
    }


def look_up(
    caller: Caller,
    vault: Vault,
    call: Call,
    arguments: Mapping[str, object],
    *,
    asked_at: datetime,
) -> CallOutcome:
    """Ask the provider for the outcome of ``call``, and record what is certain.

    Raises:
        ProviderError: the lookup call failed.
        OutOfBudget: the lookup call is not allowed.
    """
    client, database = caller.api.client, caller.database
    lookup = client.calls[call.lookup or ""]
    required = lookup_arguments(type(client), lookup, arguments)
    caller.debit(lookup)
    answer = caller.make(lookup, required)
    if isinstance(answer, Page):
        listed = filter(None, (item.as_reported_order(required) for item in answer.items))
        new_orders = _unknown_since(database, client.name, listed, asked_at)
        with database.transaction() as session:
            now = database.now(session)
            for reported in new_orders:
                record(session, vault, client, call, reported, asked_at=asked_at, now=now)
        return CallOutcome(new_orders=new_orders)
    reported_order = answer.as_reported_order(required) if isinstance(answer, Result) else None
    if not isinstance(answer, Result) or reported_order is None:
        return CallOutcome()
    with database.transaction() as session:
        done = _proves(session, vault, client.name, call, reported_order)
        record(
            session,
            vault,
            client,
            call if done else lookup,
            reported_order,
            asked_at=asked_at,
            now=database.now(session),
        )
    return CallOutcome(done=done, order=answer)


def _unknown_since(
    database: Database, provider: str, listed: Iterable[ReportedOrder], since: datetime
) -> tuple[ReportedOrder, ...]:
    """The listed orders that are unknown here and were created since.

    An open order without a date may be the one: a purchase that nobody knows of costs its price.
    """
    candidates = [
        reported
        for reported in listed
        if (
            reported.status in OPEN_STATES
            if reported.created_at is None
            else reported.created_at >= since - _CLOCK_SKEW
        )
    ]
    with database.reading() as session:
        known = orders.find(session, provider, [reported.order_id for reported in candidates])
    return tuple(reported for reported in candidates if reported.order_id not in known)


def _proves(
    session: Session, vault: Vault, provider: str, call: Call, reported: ReportedOrder
) -> bool:
    """Whether only ``call`` can have brought the order to its reported state."""
    if call.swaps:
        known = orders.find(session, provider, [reported.order_id]).get(reported.order_id)
        if known is None or known.phone_number is None or reported.phone_number is None:
            return False
        return not orders.has_number(vault, known, reported.phone_number)
    return call.state is not None and reported.status == call.state
