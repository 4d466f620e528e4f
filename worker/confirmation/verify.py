"""Verifies with the provider a code that an unsigned webhook reported.

The code is held until the provider verifies it, since anyone who learned the webhook URL could have
sent it. If the provider gives no answer in time, the code is delivered unverified. If it
contradicts the webhook, the code is quarantined.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import partial

from sqlalchemy import update

from receiver.errors import CodecatchError
from receiver.inbox.store import HANDLED, INBOX, QUARANTINED
from receiver.providers.base import comparable_code, normal_code
from worker.configuration.routing import Routing
from worker.confirmation import fair_queue
from worker.confirmation.attempt import Outcome, Task, after_error, mark_confirmed, release_row
from worker.handling import ready_codes
from worker.orders import codes
from worker.orders import store as orders
from worker.outbox.leases import CALL_LEASE
from worker.outbox.planner import Planner
from worker.providers.capabilities import ReportsOrders, VerifiesCodes
from worker.providers.errors import (
    InvalidRequest,
    NotFound,
    ProviderError,
    RateLimited,
    UnknownProviderError,
)
from worker.providers.reported_order import ReportedOrder
from worker.runtime.runtime import Runtime
from worker.schema.models import Code, Confirmation
from worker.schema.states import (
    CODE_QUARANTINED,
    CODE_STATES,
    DEAD,
    DONE,
    HELD,
    READY,
    RECEIVED,
    WAITING,
)

# How long the provider may answer "not yet", or not at all.
TIMEOUT = timedelta(seconds=30)
_RETRY_DELAY = fair_queue.ANSWER_FRESH
# Denials without a documented error code, as something in front of an API may send them.
_DENIALS = frozenset({400, 404, 410, 422})


@dataclass(frozen=True, slots=True)
class _Verdict:
    """What an answer means for a code: its new state, or None to ask again."""

    state: str | None
    reason: str | None = None
    verified: bool = False
    code: str | None = field(default=None, repr=False)  # the whole code, if the report lacked zeros


# Judges the code that a webhook reported; the second argument says whether TIMEOUT is over.
_Judge = Callable[[str, bool], _Verdict]
_UNVERIFIED = _Verdict(READY, "delivered unverified: the provider gave no answer")


def verify(task: Task) -> Outcome:
    """Ask the provider once about the order of a claimed row; the answer settles all its codes."""
    client = task.api.client
    if not isinstance(client, ReportsOrders):
        return Outcome(DEAD, f"the API of {task.row.provider} cannot verify codes")
    with task.runtime.database.reading() as session:
        now = task.runtime.database.now(session)
        code = session.get(Code, task.row.code_id)
        unanswered = _judge(task.runtime, task.row, code, lambda *_: _Verdict(None), now)
    if unanswered is None:
        return Outcome(DONE)
    if unanswered.state is not None:
        return _outcome(task, unanswered)
    if task.claim.is_poison_among_calls:
        return _outcome(task, _UNVERIFIED)
    judge: _Judge
    try:
        judge = partial(_judge_answer, _ask(client, task.row.order_id))
    except RateLimited as error:  # the code is held until the provider can be asked
        return after_error(task, error, unsure=False)
    except ProviderError as error:
        judge = partial(_judge_error, error)
    with task.runtime.database.reading() as session:
        now = task.runtime.database.now(session)
    verdict = _judge(task.runtime, task.row, code, judge, now)
    return _outcome(task, verdict or unanswered, judge)


def _judge_answer(answer: ReportedOrder, expected: str, timed_out: bool) -> _Verdict:
    if answer.status not in CODE_STATES:
        if timed_out:
            return _Verdict(CODE_QUARANTINED, "the provider still waits for a code")
        return _Verdict(None, "the provider has no code yet")
    if _equal(answer, expected):
        return _Verdict(READY, verified=True)
    if _completes(answer.code, expected):
        return _Verdict(READY, verified=True, code=answer.code)
    return _Verdict(CODE_QUARANTINED, "the provider reports another code")


def _ask(client: ReportsOrders, order_id: str) -> ReportedOrder:
    """How the order stands and which code it has; without a code it waits for one."""
    reported = client.find_order(order_id)
    if isinstance(client, VerifiesCodes):
        return reported
    return replace(reported, status=RECEIVED if reported.code else WAITING)


def _judge_error(error: ProviderError, _: str, timed_out: bool) -> _Verdict:
    if _is_denial(error):
        return _Verdict(CODE_QUARANTINED, "the provider has no such order")
    return _UNVERIFIED if timed_out else _Verdict(None, str(error))


def _is_denial(error: ProviderError) -> bool:
    """Whether the order does not exist, or its id is not a valid one."""
    if isinstance(error, UnknownProviderError):
        return error.status in _DENIALS
    return isinstance(error, NotFound | InvalidRequest)


def _equal(answer: ReportedOrder, expected: str) -> bool:
    both = (comparable_code(text or "") for text in (answer.code, expected))
    if answer.code_is_number:
        both = (code.lstrip("0") for code in both)
    left, right = (code.encode("utf-8", "surrogatepass") for code in both)
    return hmac.compare_digest(left, right)


def _completes(answered: str | None, expected: str) -> bool:
    """Whether the answer is the expected number with its leading zeros."""
    digits = comparable_code(answered or "")
    return digits.startswith("0") and digits.isdigit() and digits.lstrip("0") == expected


def _judge(
    runtime: Runtime, row: Confirmation, code: Code | None, judge: _Judge, now: datetime
) -> _Verdict | None:
    """The verdict of ``judge`` on a code; None if it was released, discarded or purged."""
    if code is None or code.state != HELD:
        return None
    try:
        reported = codes.open_field(runtime.vault, code, "code")
    except CodecatchError as error:
        return _Verdict(CODE_QUARANTINED, str(error))
    if reported is None:
        return None
    return judge(reported, row.asked_since is not None and now - row.asked_since >= TIMEOUT)


def _outcome(task: Task, verdict: _Verdict, judge: _Judge | None = None) -> Outcome:
    """The outcome of the claimed row; with ``judge``, the order's other rows are settled too."""

    def write(planner: Planner) -> None:
        # Locked in the order in which events are handled: the order first, then its codes.
        row = task.row
        orders.find_or_create(planner.session, row.provider, row.order_id, now=planner.now)
        _apply(planner, task.runtime, row, verdict)
        if judge is None:
            return
        now, lease = planner.now, CALL_LEASE
        for other, claim in fair_queue.claim_siblings(planner.session, row, now=now, lease=lease):
            code = planner.session.get(Code, other.code_id, with_for_update=True)
            shared = _judge(task.runtime, other, code, judge, now) or _Verdict(DONE)
            _apply(planner, task.runtime, other, shared)
            state = None if shared.state is None else DONE
            release_row(planner, claim, state, shared.reason, _RETRY_DELAY)

    state = None if verdict.state is None else DONE
    return Outcome(state, verdict.reason, delay=_RETRY_DELAY, write_effects=write)


def _apply(planner: Planner, runtime: Runtime, row: Confirmation, verdict: _Verdict) -> None:
    # DaisySIM's word for a code ends its order; VirtualSMS charges it by a call of its own.
    ends_order = isinstance(runtime.integrations.apis[row.provider].client, VerifiesCodes)
    if verdict.verified and ends_order:
        mark_confirmed(row, "verified", planner)
    code = planner.session.get(Code, row.code_id, with_for_update=True)
    if code is None or code.state != HELD:  # a person decided while the provider was asked
        return
    if verdict.state == READY:
        if verdict.code is not None:
            codes.complete(runtime.vault, code, normal_code(verdict.code))
        ready_codes.release(
            planner, runtime.vault, runtime.policy, code.id, verified=verdict.verified
        )
    elif verdict.state == CODE_QUARANTINED:
        code.state = CODE_QUARANTINED
        _quarantine_event(planner, runtime.policy.routing, row, verdict.reason)


def _quarantine_event(
    planner: Planner, routing: Routing, row: Confirmation, reason: str | None
) -> None:
    planner.session.connection().execute(
        update(INBOX)
        .where(INBOX.c.id == row.event_id, INBOX.c.state == HANDLED)
        .values(state=QUARANTINED, error=reason)
    )
    planner.plan_notice(
        routing.operators(),
        "quarantined",
        event_id=row.event_id,
        detail=f"A code of {row.provider} was quarantined: {reason}. "
        "To list: codecatch events list --state quarantined",
    )
