"""Confirming an order with its provider, which charges it: never twice.

A call whose outcome is unknown may have charged the order. So before it is repeated the provider
is asked how the order stands; the same goes for a call whose maker vanished.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from datetime import timedelta

import structlog

from receiver.database.engine import TROUBLE, kind_of
from receiver.failpoints import reach
from worker.confirmation import attempt as attempts
from worker.confirmation import claim as claims
from worker.confirmation import verify as verification
from worker.confirmation.attempt import Outcome, Task
from worker.orders import store as orders
from worker.outbox.call_budgets import OutOfBudget
from worker.outbox.leases import LeaseLost
from worker.outbox.planner import Planner
from worker.providers.capabilities import CALL_OF, Confirms
from worker.providers.errors import (
    InsufficientBalance,
    OrderAlreadyConfirmed,
    ProviderError,
    Unauthorized,
)
from worker.runtime.runtime import Runtime
from worker.schema.models import Confirmation, Order
from worker.schema.states import CONFIRMED, DEAD, DONE, UNKNOWN, UNPAID_ENDS, VERIFY

# Errors that a person at the provider's dashboard can mend.
_MENDABLE = (InsufficientBalance, Unauthorized)
_MENDABLE_PAUSE = timedelta(minutes=5)
# How long quick answers wait for others, to be recorded together with them.
_LINGER_SECONDS = 0.005
_log = structlog.get_logger(__name__)


def settle(runtime: Runtime, ids: Sequence[str]) -> None:
    """Settle as many confirmations as ``ids`` has that are due, and can be paid, in their turn."""
    tasks = claims.take(runtime, ids, CALL_OF)
    if len(tasks) < 2:
        _record(runtime, [(task, _attempt(task)) for task in tasks])
        return
    with ThreadPoolExecutor(len(tasks), thread_name_prefix="settle") as hands:
        calls = {hands.submit(_attempt, task): task for task in tasks}
        waiting = set(calls)
        while waiting:
            # A slow answer holds up nobody else's; quick ones are recorded together.
            done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
            more, waiting = wait(waiting, timeout=_LINGER_SECONDS)
            try:
                _record(runtime, [(calls[each], each.result()) for each in done | more])
            except TROUBLE as error:  # it may be over when the next answers come
                _log.warning("confirmation.database_away", error=kind_of(error))


def _record(runtime: Runtime, ended: Sequence[tuple[Task, Outcome | None]]) -> None:
    certain = [(task, outcome) for task, outcome in ended if outcome is not None]
    if certain:
        attempts.record(runtime, certain)


def _attempt(task: Task) -> Outcome | None:
    """Ask the provider; None where the row was lost to somebody else meanwhile."""
    attempt = verification.verify if task.row.action == VERIFY else _confirm
    with structlog.contextvars.bound_contextvars(event_id=task.row.event_id):
        try:
            reach("confirmations.after_claim")
            outcome = attempt(task)
            reach("confirmations.after_call")
        except LeaseLost as lost:
            _log.warning("confirmation.lease_lost", confirmation_id=task.row.id, reason=str(lost))
            return None
        except TROUBLE as error:  # the lease runs out, and somebody asks before they repeat
            _log.warning("confirmation.database_away", error=kind_of(error))
            return None
        except Exception as error:  # noqa: BLE001 - a bug here must not stop the others
            _log.exception("confirmation.broke", confirmation_id=task.row.id)
            return Outcome(None, f"it broke: {type(error).__name__}", unsure=True)
        return outcome


def _confirm(task: Task) -> Outcome:
    client = task.api.client
    if not (client.can_confirm and isinstance(client, Confirms)):
        return Outcome(DONE, f"the API of {task.row.provider} has no call for it")
    standing = task.standing
    if standing is not None and standing.status == CONFIRMED:
        return Outcome(DONE)
    if task.claimed.given_up_calling:
        return Outcome(UNKNOWN, f"{task.claimed.vanished} processes died while confirming it")
    unsure = task.row.unsure or task.claimed.repeated
    ended_unpaid = standing is not None and standing.ended_unpaid
    try:
        # An order that was given up, or ran out, had its code too late or at the same time.
        ended = _look_first(task, client) if unsure or ended_unpaid else None
        if ended is not None:
            return ended
        unsure = False  # nothing was charged so far: the provider has just said so
        client.confirm_order(task.row.order_id)
    except OutOfBudget as spent:
        # The answer that nothing was charged still holds: only the second call was not made.
        return Outcome(None, str(spent), again=_until(task, spent), unsure=False)
    except ProviderError as error:
        return _after_error(task, error, unsure=unsure)
    return Outcome(DONE, record=_confirmed(task.row))


def _look_first(task: Task, client: Confirms) -> Outcome | None:
    """How an order stands that must not be charged blindly; None if it can be confirmed."""
    stands = client.get_order(task.row.order_id).status
    if stands == CONFIRMED:
        return Outcome(DONE, record=_confirmed(task.row))
    if stands in UNPAID_ENDS:
        return Outcome(DEAD, f"the order is {stands}")
    task.pay_again()
    return None


def _after_error(task: Task, error: ProviderError, *, unsure: bool) -> Outcome:
    if isinstance(error, OrderAlreadyConfirmed):
        return Outcome(DONE, record=_confirmed(task.row))
    if isinstance(error, _MENDABLE):
        if task.claimed.attempt >= attempts.MOST_ATTEMPTS:
            return Outcome(DEAD, f"{error}; given up")
        told = attempts.no_record if task.row.error == str(error) else _ask_for_help(task, error)
        return Outcome(None, str(error), again=_MENDABLE_PAUSE, unsure=unsure, record=told)
    return attempts.after_error(task, error, unsure=unsure)


def _until(task: Task, spent: OutOfBudget) -> timedelta:
    with task.runtime.database.reading() as session:
        return max(spent.until - task.runtime.database.now(session), timedelta(0))


def _ask_for_help(task: Task, error: ProviderError) -> attempts.Record:
    def write(planner: Planner) -> None:
        planner.notice(
            task.runtime.policy.routing.operators(),
            "unconfirmed",
            event_id=task.row.event_id,
            detail=f"Orders of {task.row.provider} cannot be confirmed: {error}. It is tried again "
            f"every {_MENDABLE_PAUSE.seconds // 60} minutes until somebody has mended that.",
        )

    return write


def _confirmed(row: Confirmation) -> attempts.Record:
    def write(planner: Planner) -> None:
        order: Order = orders.find_or_create(
            planner.session, row.provider, row.order_id, now=planner.now
        )
        orders.advance(
            planner.session, order, CONFIRMED,
            kind="confirmed by us", event_id=row.event_id, at=planner.now, now=planner.now,
        )  # fmt: skip
        order.updated_at = planner.now

    return write
