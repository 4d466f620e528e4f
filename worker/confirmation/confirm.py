"""Confirms an order with its provider, which charges it: never twice.

A call with an unknown outcome may have charged the order. So the provider is asked for the order's
state before such a call is repeated, also when the process that made it crashed.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from datetime import timedelta
from functools import partial

import structlog
from sqlalchemy.exc import SQLAlchemyError

from receiver.database.trouble import is_trouble, kind_of
from receiver.failpoints import reach
from worker.confirmation import attempt as attempts
from worker.confirmation.attempt import MAX_ATTEMPTS, Outcome, Task, WriteEffects, no_effects
from worker.confirmation.claim import claim
from worker.confirmation.verify import verify
from worker.http.client import not_after
from worker.outbox.call_budgets import OutOfBudget
from worker.outbox.leases import LeaseLost
from worker.outbox.planner import Planner
from worker.providers.capabilities import ConfirmsOrders
from worker.providers.errors import (
    InsufficientBalance,
    OrderAlreadyConfirmed,
    ProviderError,
    Unauthorized,
)
from worker.runtime.runtime import Runtime
from worker.schema.models import Confirmation
from worker.schema.states import CONFIRMED, DEAD, DONE, UNKNOWN, UNPAID_ENDS, VERIFY

# Errors that an operator can fix in the provider's dashboard.
_FIXABLE = (InsufficientBalance, Unauthorized)
_FIXABLE_DELAY = timedelta(minutes=5)
# How long a finished call waits for others, to be recorded together with them.
_LINGER_SECONDS = 0.005
_log = structlog.get_logger(__name__)


def settle(runtime: Runtime, ids: Sequence[str]) -> None:
    """Make up to ``len(ids)`` due calls, in fair order and within the budgets.

    A row of ``confirmations`` is one of two actions: confirm an order, or verify a code.
    """
    tasks = claim(runtime, ids)
    if len(tasks) < 2:
        _record(runtime, [(task, _attempt(task)) for task in tasks])
        return
    with ThreadPoolExecutor(len(tasks), thread_name_prefix="settle") as pool:
        calls = {pool.submit(_attempt, task): task for task in tasks}
        in_flight = set(calls)
        while in_flight:
            # A slow call delays no other outcome; quick ones are recorded together.
            done, in_flight = wait(in_flight, return_when=FIRST_COMPLETED)
            more, in_flight = wait(in_flight, timeout=_LINGER_SECONDS)
            try:
                _record(runtime, [(calls[each], each.result()) for each in done | more])
            except SQLAlchemyError as error:
                if not is_trouble(error):
                    raise
                # It may be over when the next calls finish.
                _log.warning("confirmation.database_away", error=kind_of(error))


def _record(runtime: Runtime, ended: Sequence[tuple[Task, Outcome | None]]) -> None:
    outcomes = [(task, outcome) for task, outcome in ended if outcome is not None]
    if outcomes:
        attempts.record(runtime, outcomes)


def _attempt(task: Task) -> Outcome | None:
    """Make the calls of one attempt; None if its lease was lost or the database is unavailable."""
    attempt = verify if task.row.action == VERIFY else _confirm
    with structlog.contextvars.bound_contextvars(event_id=task.row.event_id):
        try:
            reach("confirmations.after_claim")
            outcome = attempt(task)
            reach("confirmations.after_call")
        except LeaseLost as lost:
            _log.warning("confirmation.lease_lost", confirmation_id=task.row.id, reason=str(lost))
            return None
        except Exception as error:  # noqa: BLE001 - a bug in one attempt must not stop the others
            if is_trouble(error):  # the lease expires; the next holder asks before it calls
                _log.warning("confirmation.database_away", error=kind_of(error))
                return None
            _log.exception("confirmation.attempt_failed", confirmation_id=task.row.id)
            return Outcome(None, f"internal error: {type(error).__name__}", unsure=True)
        return outcome


def _confirm(task: Task) -> Outcome:
    client = task.api.client
    if not (client.can_confirm and isinstance(client, ConfirmsOrders)):
        return Outcome(DONE, f"the API of {task.row.provider} has no call that confirms orders")
    known = task.order_status
    if known is not None and known.status == CONFIRMED:
        return Outcome(DONE)
    if task.claim.is_poison_among_calls:
        return Outcome(UNKNOWN, f"{task.claim.vanished} processes died while confirming it")
    unsure = task.row.unsure or task.claim.repeated
    ended_unpaid = known is not None and known.ended_unpaid
    try:
        # The code of a cancelled or expired order came too late, or at the same time.
        ended = _ask_before_charging(task, client) if unsure or ended_unpaid else None
        if ended is not None:
            return ended
        unsure = False  # nothing is charged so far: the provider has just said so
        reach("confirmations.before_call")
        with not_after(task.call_until):
            client.confirm_order(task.row.order_id)
    except OutOfBudget as spent:
        # The answer that nothing is charged still holds: only the second call was not made.
        return Outcome(None, str(spent), delay=_time_until(task, spent), unsure=False)
    except ProviderError as error:
        return _after_error(task, error, unsure=unsure)
    return Outcome(DONE, write_effects=_confirmed_by_us(task.row))


def _ask_before_charging(task: Task, client: ConfirmsOrders) -> Outcome | None:
    """Ask for the state of an order that may be charged or over; None if it can be confirmed."""
    state = client.find_order(task.row.order_id).status
    if state == CONFIRMED:
        return Outcome(DONE, write_effects=_confirmed_by_us(task.row))
    if state in UNPAID_ENDS:
        return Outcome(DEAD, f"the order is {state}")
    task.debit_call()
    return None


def _after_error(task: Task, error: ProviderError, *, unsure: bool) -> Outcome:
    if isinstance(error, OrderAlreadyConfirmed):
        return Outcome(DONE, write_effects=_confirmed_by_us(task.row))
    if isinstance(error, _FIXABLE):
        if task.claim.attempt >= MAX_ATTEMPTS:
            return Outcome(DEAD, f"{error}; given up")
        notified = task.row.error == str(error)
        notify = no_effects if notified else _notify_operators(task, error)
        return Outcome(None, str(error), delay=_FIXABLE_DELAY, unsure=unsure, write_effects=notify)
    return attempts.after_error(task, error, unsure=unsure)


def _time_until(task: Task, spent: OutOfBudget) -> timedelta:
    with task.runtime.database.reading() as session:
        return max(spent.until - task.runtime.database.now(session), timedelta(0))


def _notify_operators(task: Task, error: ProviderError) -> WriteEffects:
    def write(planner: Planner) -> None:
        planner.plan_notice(
            task.runtime.policy.routing.operators(),
            "unconfirmed",
            event_id=task.row.event_id,
            detail=f"Orders of {task.row.provider} cannot be confirmed: {error}. Confirming them "
            f"is retried every {_FIXABLE_DELAY.seconds // 60} minutes until this is fixed.",
        )

    return write


def _confirmed_by_us(row: Confirmation) -> WriteEffects:
    return partial(attempts.mark_confirmed, row, "confirmed by us")
