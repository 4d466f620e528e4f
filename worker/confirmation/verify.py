"""Asking back whether the code that an unsigned webhook reported is really the provider's.

Nobody is told before the provider has vouched for the code, since anybody who learnt the URL
could have sent it. A provider that is down must not keep a code from people for ever; one that
contradicts the webhook does.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial

from sqlalchemy import update

from receiver.errors import CodecatchError
from receiver.inbox.store import HANDLED, INBOX, QUARANTINED
from worker.configuration.routing import Routing
from worker.confirmation import attempt as attempts
from worker.confirmation import fair_queue
from worker.confirmation.attempt import Outcome, Task
from worker.handling.ready_codes import release
from worker.orders import codes
from worker.orders import store as orders
from worker.outbox.leases import CALL_LEASE
from worker.outbox.planner import Planner
from worker.providers.capabilities import Answer, Vouches
from worker.providers.errors import (
    InvalidRequest,
    NotFound,
    ProviderError,
    RateLimited,
    UnknownProviderError,
)
from worker.runtime.runtime import Runtime
from worker.schema.models import Code, Confirmation
from worker.schema.states import CODE_QUARANTINED, CONFIRMED, DEAD, DONE, HELD, READY

# How long the provider may say "not yet", or nothing at all.
PATIENCE = timedelta(seconds=30)
_PAUSE = fair_queue.MOMENT
_COMPLETED = "completed"
# The same without a word that a document lists, as what stands before an API may answer.
_DENIALS = frozenset({400, 404, 410, 422})


@dataclass(frozen=True, slots=True)
class _Verdict:
    """What an answer means for a code: its state from now on, or None to ask once more."""

    state: str | None
    reason: str | None = None
    verified: bool = False


# Of the code that a webhook reported, and of whether the patience with the provider is over.
_Judge = Callable[[str, bool], _Verdict]
_UNHEARD = _Verdict(READY, "told without the provider's word")


def verify(task: Task) -> Outcome:
    """Ask once about the order of a row in hand; the answer counts for all its held codes."""
    client = task.api.client
    if not isinstance(client, Vouches):
        return Outcome(DEAD, f"the API of {task.row.provider} vouches for nothing")
    with task.runtime.database.reading() as session:
        now = task.runtime.database.now(session)
        code = session.get(Code, task.row.code_id)
        open_question = _judged(task.runtime, task.row, code, lambda *_: _Verdict(None), now)
    if open_question is None:
        return Outcome(DONE)
    if open_question.state is not None:
        return _concluded(task, open_question)
    if task.claimed.given_up_calling:
        return _concluded(task, _UNHEARD)
    judge: _Judge
    try:
        judge = partial(_of_answer, client.check(task.row.order_id))
    except RateLimited as error:  # held until it can be asked
        return attempts.after_error(task, error, unsure=False)
    except ProviderError as error:
        judge = partial(_of_error, error)
    with task.runtime.database.reading() as session:
        now = task.runtime.database.now(session)
    own = _judged(task.runtime, task.row, code, judge, now)
    return _concluded(task, own or open_question, judge)


def _of_answer(answer: Answer, expected: str, patience_over: bool) -> _Verdict:
    if answer.status.lower() != _COMPLETED:
        if patience_over:
            return _Verdict(CODE_QUARANTINED, "the provider still waits for a code")
        return _Verdict(None, "the provider has no code yet")
    if not _equal(answer.code, expected):
        return _Verdict(CODE_QUARANTINED, "the provider reports another code")
    return _Verdict(READY, verified=True)


def _of_error(error: ProviderError, _: str, patience_over: bool) -> _Verdict:
    if _denies(error):
        return _Verdict(CODE_QUARANTINED, "the provider knows no such order")
    return _UNHEARD if patience_over else _Verdict(None, str(error))


def _denies(error: ProviderError) -> bool:
    """Whether it says that there is no such order, or that nothing is ever called so."""
    if isinstance(error, UnknownProviderError):
        return error.status in _DENIALS
    return isinstance(error, NotFound | InvalidRequest)


def _equal(said: str | None, expected: str) -> bool:
    left, right = ((text or "").encode("utf-8", "surrogatepass") for text in (said, expected))
    return hmac.compare_digest(left, right)


def _judged(
    runtime: Runtime, row: Confirmation, code: Code | None, judge: _Judge, now: datetime
) -> _Verdict | None:
    """What ``judge`` says of a code; None if it was released, discarded or purged meanwhile."""
    if code is None or code.state != HELD:
        return None
    try:
        reported = codes.open_field(runtime.vault, code, "code")
    except CodecatchError as error:
        return _Verdict(CODE_QUARANTINED, str(error))
    if reported is None:
        return None
    return judge(reported, row.asked_since is not None and now - row.asked_since >= PATIENCE)


def _concluded(task: Task, verdict: _Verdict, judge: _Judge | None = None) -> Outcome:
    """What follows for the row in hand, and by ``judge`` for the others of its order."""

    def write(planner: Planner) -> None:
        # In the sequence in which events are handled: the order first, then its codes.
        row = task.row
        orders.find_or_create(planner.session, row.provider, row.order_id, now=planner.now)
        _carry_out(planner, task.runtime, row, verdict)
        if judge is None:
            return
        now, lease = planner.now, CALL_LEASE
        for other, claimed in fair_queue.siblings(planner.session, row, now=now, lease=lease):
            code = planner.session.get(Code, other.code_id, with_for_update=True)
            shared = _judged(task.runtime, other, code, judge, now) or _Verdict(DONE)
            _carry_out(planner, task.runtime, other, shared)
            attempts.let_go(
                planner, claimed, None if shared.state is None else DONE, shared.reason, _PAUSE
            )

    return Outcome(
        None if verdict.state is None else DONE, verdict.reason, again=_PAUSE, record=write
    )


def _carry_out(planner: Planner, runtime: Runtime, row: Confirmation, verdict: _Verdict) -> None:
    if verdict.verified:
        _finish_order(planner, row)
    code = planner.session.get(Code, row.code_id, with_for_update=True)
    if code is None or code.state != HELD:  # a person decided while the provider was asked
        return
    if verdict.state == READY:
        routing = runtime.policy.routing
        release(planner, runtime.vault, routing, row.code_id, verified=verdict.verified)
    elif verdict.state == CODE_QUARANTINED:
        code.state = CODE_QUARANTINED
        _quarantine_event(planner, runtime.policy.routing, row, verdict.reason)


def _finish_order(planner: Planner, row: Confirmation) -> None:
    order = orders.find_or_create(planner.session, row.provider, row.order_id, now=planner.now)
    orders.advance(
        planner.session, order, CONFIRMED,
        kind="verified", event_id=row.event_id, at=planner.now, now=planner.now,
    )  # fmt: skip
    order.updated_at = planner.now


def _quarantine_event(
    planner: Planner, routing: Routing, row: Confirmation, reason: str | None
) -> None:
    planner.session.connection().execute(
        update(INBOX)
        .where(INBOX.c.id == row.event_id, INBOX.c.state == HANDLED)
        .values(state=QUARANTINED, error=reason)
    )
    planner.notice(
        routing.operators(),
        "quarantined",
        event_id=row.event_id,
        detail=f"A code of {row.provider} was quarantined: {reason}. Look: "
        "codecatch events list --state quarantined",
    )
