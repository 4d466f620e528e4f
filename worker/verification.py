"""Asking back whether the code that an unsigned webhook reported is really the provider's.

Nobody is told before the provider has vouched for the code, since anybody who learnt the URL
could have sent it. A provider that is down must not keep a code from people for ever; one that
contradicts the webhook does.
"""

from __future__ import annotations

import hmac
from datetime import timedelta

from sqlalchemy import update
from sqlmodel import Session

from receiver.errors import CodecatchError
from receiver.events import SmsReceived
from receiver.inbox import HANDLED, INBOX, QUARANTINED
from receiver.vault import Vault
from worker import codes, orders, settling
from worker.followups import Planner
from worker.models import DEAD, DONE, HELD, READY, Code
from worker.models import QUARANTINED as CODE_QUARANTINED
from worker.order_states import CONFIRMED
from worker.providers.capabilities import Vouches
from worker.providers.errors import (
    InvalidRequest,
    NotFound,
    ProviderError,
    RateLimited,
    UnknownProviderError,
)
from worker.routing import Routing
from worker.settling import Outcome, Task

# How long the provider may say "not yet", or nothing at all.
PATIENCE = timedelta(seconds=30)
_PAUSE = timedelta(seconds=3)
_COMPLETED = "completed"
# The same without a word that a document lists, as what stands before an API may answer.
_DENIALS = frozenset({400, 404, 410, 422})


def verify(task: Task) -> Outcome:
    """Ask once about the code of a row in hand; the table of answers is in the order below."""
    client = task.api.client
    if not isinstance(client, Vouches):
        return Outcome(DEAD, f"the API of {task.row.provider} vouches for nothing")
    try:
        expected = _expected(task)
    except CodecatchError as error:
        return _quarantine(task, str(error))
    if expected is None:  # released or discarded by a person meanwhile, or purged
        return Outcome(DONE)
    if task.claimed.given_up:
        return _release(task, verified=False)
    try:
        answer = client.check(task.row.order_id)
    except ProviderError as error:
        return _unanswered(task, error)
    if answer.status.lower() != _COMPLETED:
        if _patience_over(task):
            return _quarantine(task, "the provider still waits for a code")
        return Outcome(None, "the provider has no code yet", again=_PAUSE)
    if not _equal(answer.code, expected):
        return _quarantine(task, "the provider reports another code")
    return _release(task, verified=True)


def _unanswered(task: Task, error: ProviderError) -> Outcome:
    if _denies(error):
        return _quarantine(task, "the provider knows no such order")
    if isinstance(error, RateLimited):  # held until it can be asked
        return settling.after_error(task, error, unsure=False)
    if _patience_over(task):
        return _release(task, verified=False)
    return Outcome(None, str(error), again=_PAUSE)


def _denies(error: ProviderError) -> bool:
    """Whether it says that there is no such order, or that nothing is ever called so."""
    if isinstance(error, UnknownProviderError):
        return error.status in _DENIALS
    return isinstance(error, NotFound | InvalidRequest)


def _expected(task: Task) -> str | None:
    with task.runtime.database.reading() as session:
        code = session.get(Code, task.row.code_id)
        if code is None or code.state != HELD:
            return None
        return codes.open_field(task.runtime.vault, code, "code")


def _equal(said: str | None, expected: str) -> bool:
    left, right = ((text or "").encode("utf-8", "surrogatepass") for text in (said, expected))
    return hmac.compare_digest(left, right)


def _patience_over(task: Task) -> bool:
    with task.runtime.database.reading() as session:
        now = task.runtime.database.now(session)
    return task.row.asked_since is not None and now - task.row.asked_since >= PATIENCE


def _release(task: Task, *, verified: bool) -> Outcome:
    routing = task.runtime.policy.routing

    def write(planner: Planner) -> None:
        row = task.row
        if verified:
            order = orders.find_or_create(
                planner.session, row.provider, row.order_id, now=planner.now
            )
            orders.advance(
                planner.session, order, CONFIRMED,
                kind="verified", event_id=row.event_id, at=planner.now, now=planner.now,
            )  # fmt: skip
            order.updated_at = planner.now
        if _still_held(planner.session, row.code_id) is not None:
            tell(planner, task.runtime.vault, routing, row.code_id, verified=verified)

    return Outcome(DONE, None if verified else "told without the provider's word", record=write)


def tell(planner: Planner, vault: Vault, routing: Routing, code_id: str, *, verified: bool) -> None:
    """Make a held or quarantined code an ordinary one, and plan to tell it."""
    code = planner.session.get(Code, code_id)
    if code is None:
        return
    code.state, code.verified = READY, verified
    order = orders.find_or_create(planner.session, code.provider, code.order_id, now=planner.now)
    planner.deliveries_of(
        routing.of(orders.subject(vault, order, SmsReceived.type)),
        SmsReceived.type,
        event_id=code.event_id,
        code_id=code.id,
    )


def vouched_for(planner: Planner, vault: Vault, routing: Routing, code: Code) -> None:
    """The provider itself has named the code meanwhile: if it was kept back, it is told.

    What a person has discarded stays so, and what was purged cannot be told.
    """
    locked = planner.session.get(Code, code.id, with_for_update=True, populate_existing=True)
    if locked is None or locked.code is None or locked.state not in {HELD, CODE_QUARANTINED}:
        return
    tell(planner, vault, routing, locked.id, verified=True)
    planner.session.connection().execute(
        update(INBOX)
        .where(INBOX.c.id == locked.event_id, INBOX.c.state == QUARANTINED)
        .values(state=HANDLED, error=None)
    )


def _quarantine(task: Task, reason: str) -> Outcome:
    def write(planner: Planner) -> None:
        code = _still_held(planner.session, task.row.code_id)
        if code is None:
            return
        code.state = CODE_QUARANTINED
        _mark_event(planner.session, task.row.event_id, reason)
        planner.notice(
            task.runtime.policy.routing.operators(),
            "quarantined",
            event_id=task.row.event_id,
            detail=f"A code of {task.row.provider} was quarantined: {reason}. Look: "
            "codecatch events list --state quarantined",
        )

    return Outcome(DONE, reason, record=write)


def _still_held(session: Session, code_id: str) -> Code | None:
    """The code, locked, unless a person has decided about it while the provider was asked."""
    code = session.get(Code, code_id, with_for_update=True)
    return code if code is not None and code.state == HELD else None


def _mark_event(session: Session, event_id: str, reason: str) -> None:
    session.connection().execute(
        update(INBOX)
        .where(INBOX.c.id == event_id, INBOX.c.state == HANDLED)
        .values(state=QUARANTINED, error=reason)
    )
