"""What became of a call that may or may not have been processed: looked at, never repeated."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlmodel import Session

from receiver.database.engine import Database
from receiver.vault.sealing import Vault
from worker.calls import record as call_record
from worker.calls.caller import Caller
from worker.orders import store as orders
from worker.providers.base import Call, ProviderApi
from worker.providers.reported_order import ReportedOrder
from worker.providers.results import Page, Result

# The provider's clock and ours need not agree.
_SKEW = timedelta(minutes=2)


@dataclass(frozen=True, slots=True)
class CallOutcome:
    """What a look at the provider showed.

    Attributes:
        done: the call was processed; False says only that nothing proves it.
        order: how the order that the call was about stands.
        made: orders that nobody here knew of, made since; they are known now.
    """

    done: bool = False
    order: Result | None = None
    made: tuple[ReportedOrder, ...] = ()


def look_arguments(
    client: type[ProviderApi], look: Call, arguments: Mapping[str, object]
) -> dict[str, object]:
    """Those of a call's ``arguments`` that the call which looks at its outcome wants."""
    wanted = inspect.signature(getattr(client, look.name)).parameters.values()
    return {
        each.name: arguments[each.name]
        for each in wanted
        if each.default is each.empty and each.name != "self"
    }


def look(
    caller: Caller,
    vault: Vault,
    call: Call,
    arguments: Mapping[str, object],
    *,
    asked_at: datetime,
) -> CallOutcome:
    """Ask what became of ``call``, and record what is certain.

    Raises:
        ProviderError, OutOfBudget: the provider could not be asked.
    """
    client, database = caller.api.client, caller.database
    looking = client.calls[call.look or ""]
    asked = look_arguments(type(client), looking, arguments)
    caller.pay(looking)
    answer = caller.make(looking, asked)
    if isinstance(answer, Page):
        lines = filter(None, (item.about_order(asked) for item in answer.items))
        made = _new(database, client.name, lines, asked_at)
        with database.transaction() as session:
            now = database.now(session)
            for found in made:
                call_record.record(session, vault, client, call, found, asked_at=asked_at, now=now)
        return CallOutcome(made=made)
    state = answer.about_order(asked) if isinstance(answer, Result) else None
    if not isinstance(answer, Result) or state is None:
        return CallOutcome()
    with database.transaction() as session:
        done = _proves(session, vault, client.name, call, state)
        call_record.record(
            session,
            vault,
            client,
            call if done else looking,
            state,
            asked_at=asked_at,
            now=database.now(session),
        )
    return CallOutcome(done=done, order=answer)


def _new(
    database: Database, provider: str, lines: Iterable[ReportedOrder], since: datetime
) -> tuple[ReportedOrder, ...]:
    """The orders made since, as far as the provider tells, that are not known here."""
    with database.reading() as session:
        return tuple(
            found
            for found in lines
            if found.created_at is not None
            and found.created_at >= since - _SKEW
            and orders.find(session, provider, found.order_id) is None
        )


def _proves(
    session: Session, vault: Vault, provider: str, call: Call, found: ReportedOrder
) -> bool:
    """Whether an order that stands like this can only have come to it by ``call``."""
    if call.swaps:
        known = orders.find(session, provider, found.order_id)
        if known is None or known.phone_digest is None or found.phone_number is None:
            return False
        return known.phone_digest != vault.digest("phone", found.phone_number)
    return call.state is not None and found.status == call.state
