"""Codes from unsigned webhooks are verified before they are delivered."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
from sqlmodel import Session

from receiver.inbox.store import InboxEvent
from tests.support import webhooks
from tests.support.http_server import Reply, Request
from tests.support.webhooks import ACTIVATION, CODE, Webhook
from tests.worker.delivery.senders import deliver_ids
from tests.worker.support import (
    CHECK_PATH,
    DAISYSIM_KEY,
    SECOND,
    World,
    all_rows,
    change,
    change_budget,
    deliveries,
    error_reply,
    fetch,
    handle,
    lose_leases,
    notices,
    now,
    on_sqlite,
    only_row,
    planned,
    reload,
    says,
    settle,
    states,
)
from worker.confirmation import fair_queue
from worker.confirmation.confirm import settle as settle_ids
from worker.handling.ready_codes import release
from worker.orders import codes
from worker.outbox.planner import Planner
from worker.runtime.runtime import Runtime
from worker.schema.models import Budget, Code, Confirmation, Delivery, Order, OrderTransition

SMS = webhooks.daisysim()
LONG_AGO = 31 * SECOND
CONNECTED = {"daisysim": True, "slack": True}


refuses = partial(error_reply, "daisysim")


COMPLETED = says("Completed", CODE)
BARE = Reply(json={"data": {"status": "Completed", "code": CODE}})
WAITING = says("Waiting")


def answer(world: World, reply: Reply | Callable[[Request], Reply]) -> None:
    """Let the provider give this answer."""
    world.api.on("GET", CHECK_PATH, handler=reply if callable(reply) else lambda _: reply)


def time_out(runtime: Runtime, row: Confirmation) -> None:
    """Move the first question about a code half a minute back."""
    current = reload(runtime, row)
    asked = current.asked_since or now(runtime)
    change(runtime, current, asked_since=asked - LONG_AGO)


@pytest.mark.parametrize(
    "reply", [COMPLETED, BARE, says("COMPLETED ", CODE), says("finished", CODE)]
)
def test_a_code_that_the_provider_verifies_is_delivered(
    world: World, runtime: Runtime, reply: Reply
) -> None:
    """One call about the activation verifies it, and confirms the order."""
    answer(world, reply)
    row = planned(runtime, SMS)
    assert (row.action, deliveries(runtime)) == ("verify", [])
    settle(runtime, row)

    (call,) = world.api.requests()
    assert (call.method, call.path.split("/")[-1]) == ("GET", ACTIVATION)
    assert call.headers["authorization"] == f"Bearer {DAISYSIM_KEY}"
    code = only_row(runtime, Code)
    assert (code.state, code.verified) == ("ready", True)
    assert (reload(runtime, row).state, reload(runtime, row).error) == ("done", None)
    assert only_row(runtime, Order).status == "confirmed"
    assert "verified" in {step.kind for step in all_rows(runtime, OrderTransition)}
    (delivery,) = deliveries(runtime)
    deliver_ids(runtime, [delivery.id])
    (message,) = world.sent_to()
    assert CODE in str(message)
    assert "not verified" not in str(message)


CONTRADICTIONS = {
    "another code": (says("Completed", "666666"), "another code"),
    "no code": (says("Completed"), "another code"),
    "a code that is not valid text": (says("Completed", "\ud800"), "another code"),
    "404": (refuses(404, "NOT_FOUND"), "no such order"),
    "404 without a body": (Reply(status=404, body=b"<html>"), "no such order"),
    "400": (Reply(status=400, json={"success": False, "error": "bad id"}), "no such order"),
    "an id that cannot be asked about": (None, "no such order"),
}


@on_sqlite
@pytest.mark.parametrize("case", CONTRADICTIONS)
def test_a_code_that_the_provider_contradicts_is_quarantined(
    world: World, runtime: Runtime, case: str
) -> None:
    """At once: the operators are notified, the code is not delivered, its event has the reason."""
    reply, reason = CONTRADICTIONS[case]
    if reply is not None:
        answer(world, reply)
    row = planned(runtime, webhooks.daisysim(activation=".." if reply is None else ACTIVATION))
    settle(runtime, row)

    assert len(world.api.requests()) == (reply is not None)
    assert only_row(runtime, Code).state == "quarantined"
    assert deliveries(runtime) == []
    (notice,) = notices(runtime)
    assert reason in (notice.detail or "")
    event = only_row(runtime, InboxEvent)
    assert event.state == "quarantined"
    assert reason in (event.error or "")
    assert (reload(runtime, row).state, reload(runtime, row).wake_at) == ("done", None)
    assert only_row(runtime, Order).status == "received"
    for delivery in all_rows(runtime, Delivery):
        deliver_ids(runtime, [delivery.id])
    assert CODE not in str(world.sent_to())


@pytest.mark.parametrize(
    ("then", "state"), [(COMPLETED, "ready"), (WAITING, "quarantined")], ids=["code", "timeout"]
)
def test_a_provider_without_a_code_is_asked_again(
    world: World, runtime: Runtime, then: Reply, state: str
) -> None:
    """The code stays held for some seconds; half a minute of "not yet" is a contradiction."""
    world.api.once("GET", CHECK_PATH, WAITING)
    answer(world, then)
    row = planned(runtime, SMS)
    settle(runtime, row)
    waiting = reload(runtime, row)
    assert (waiting.state, code_states(runtime), deliveries(runtime)) == (
        "pending",
        {"held": 1},
        [],
    )
    assert waiting.next_attempt_at - now(runtime) <= 3 * SECOND

    if state == "quarantined":
        time_out(runtime, row)
    settle(runtime, waiting)
    assert only_row(runtime, Code).verified is (True if state == "ready" else None)
    assert code_states(runtime) == {state: 1}
    assert only_row(runtime, InboxEvent).state == ("handled" if state == "ready" else state)
    assert len(deliveries(runtime)) == (state == "ready")


FAILURES = {
    "500": Reply(status=500),
    "500 in words": refuses(500, "SERVER_ERROR"),
    "502": refuses(502, "PROVIDER_ERROR"),
    "401": refuses(401, "INVALID_TOKEN"),
    "403": refuses(403, "ACCOUNT_SUSPENDED"),
    "a firewall": Reply(status=403, body=b"<html>"),
    "cut": Reply(cut=True),
    "no JSON": Reply(body=b"<html>"),
    "no status": Reply(json={"success": True, "data": {}}),
}


@on_sqlite
@pytest.mark.parametrize("case", FAILURES)
def test_a_failing_provider_does_not_hold_a_code_for_ever(
    world: World, runtime: Runtime, case: str
) -> None:
    """It is asked for half a minute; then the code is delivered, marked as not verified."""
    answer(world, FAILURES[case])
    row = planned(runtime, SMS)
    settle(runtime, row)
    assert states(runtime, [row]) == ["pending"]
    assert (code_states(runtime), deliveries(runtime)) == ({"held": 1}, [])

    time_out(runtime, row)
    settle(runtime, reload(runtime, row))

    code = only_row(runtime, Code)
    assert (code.state, code.verified) == ("ready", False)
    assert only_row(runtime, Order).status == "received"
    assert only_row(runtime, InboxEvent).state == "handled"
    (delivery,) = deliveries(runtime)
    deliver_ids(runtime, [delivery.id])
    (message,) = world.sent_to()
    assert CODE in str(message)
    assert "not verified" in str(message)


def test_a_rate_limit_holds_a_code(world: World, runtime: Runtime) -> None:
    """However long it lasts: a flood of forged events must not get a code delivered unverified."""
    world.api.once("GET", CHECK_PATH, refuses(429, "RATE_LIMITED", retry_after="60"))
    row = planned(runtime, SMS)
    time_out(runtime, row)
    settle(runtime, row)

    assert states(runtime, [row]) == ["pending"]
    assert (code_states(runtime), deliveries(runtime)) == ({"held": 1}, [])
    assert fetch(runtime, Budget, "daisysim:check").blocked_until is not None
    answer(world, COMPLETED)
    change_budget(runtime, "daisysim:check", blocked_until=None)
    settle(runtime, reload(runtime, row))
    assert only_row(runtime, Code).verified is True


def test_a_used_up_budget_holds_a_code(world: World) -> None:
    """It waits until the provider can be asked, and is never delivered unverified."""
    answer(world, COMPLETED)
    runtime = world.connect(daisysim=True, slack=True, DAISYSIM_RATE_LIMITS="check=2")
    handle(runtime, *(webhooks.daisysim(activation=str(each)) for each in range(5)))
    rows = all_rows(runtime, Confirmation)
    settle(runtime, *rows)
    for row in rows:
        if reload(runtime, row).state == "pending":
            change(runtime, row, created_at=now(runtime) - LONG_AGO)
    settle(runtime, *rows)

    assert len(world.api.requests()) == 2
    assert code_states(runtime) == {"held": 3, "ready": 2}
    assert len(deliveries(runtime)) == 2
    change_budget(runtime, "daisysim:check", spent="[]")
    settle(runtime, *(row for row in all_rows(runtime, Confirmation) if row.state == "pending"))
    assert len(world.api.requests()) == 4


@on_sqlite
@pytest.mark.parametrize(
    "values",
    [{"state": "ready"}, {"state": "discarded"}, {"state": "quarantined"}, {"code": None}],
    ids=str,
)
def test_a_released_discarded_or_purged_code_is_not_verified(
    world: World, runtime: Runtime, values: dict[str, Any]
) -> None:
    """A person has decided meanwhile, or there is nothing to compare: no call is made."""
    row = planned(runtime, SMS)
    change(runtime, only_row(runtime, Code), **values)
    settle(runtime, row)

    assert states(runtime, [row]) == ["done"]
    assert code_states(runtime) == {values.get("state", "held"): 1}
    assert (deliveries(runtime), world.api.requests()) == ([], [])


@pytest.mark.parametrize("about", ["the same code", "another code"])
@pytest.mark.parametrize("reply", [COMPLETED, says("Completed", "666666")])
@pytest.mark.parametrize("state", ["ready", "discarded"])
def test_a_decision_during_the_call_stands(
    world: World, runtime: Runtime, reply: Reply, state: str, about: str
) -> None:
    """The person's decision counts, whatever the provider answers a moment later."""
    handle(runtime, SMS, *forged(1))
    rows = all_rows(runtime, Confirmation)
    decided = rows[about == "another code"]

    def meanwhile(_: Request) -> Reply:
        change(runtime, fetch(runtime, Code, decided.code_id or ""), state=state)
        return reply

    answer(world, meanwhile)
    settle(runtime, rows[0])

    assert states(runtime, rows) == ["done", "done"]
    assert fetch(runtime, Code, decided.code_id or "").state == state
    genuine = about == "another code" and reply is COMPLETED
    assert len(deliveries(runtime)) == genuine


def test_a_code_that_cannot_be_opened_is_quarantined(world: World, runtime: Runtime) -> None:
    """The reason says so, and the row ends."""
    row = planned(runtime, SMS)
    code = only_row(runtime, Code)
    assert code.code is not None
    change(runtime, code, code=code.code[:-1] + bytes([code.code[-1] ^ 1]))
    settle(runtime, row)

    assert reload(runtime, row).state == "done"
    assert only_row(runtime, Code).state == "quarantined"
    assert "was altered" in (only_row(runtime, InboxEvent).error or "")
    assert world.api.requests() == []


def test_a_poison_row_delivers_its_code_unverified(world: World, runtime: Runtime) -> None:
    """After ten expired leases, without another call."""
    row = planned(runtime, SMS)
    lose_leases(runtime, row, 10)
    settle_ids(runtime, [row.id])

    assert (only_row(runtime, Code).state, only_row(runtime, Code).verified) == ("ready", False)
    assert len(deliveries(runtime)) == 1
    assert world.api.requests() == []


@pytest.fixture
def _fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep an answer fresh, however slow this machine is."""
    monkeypatch.setattr(fair_queue, "ANSWER_FRESH", 60 * SECOND)


def forged(codes: int) -> list[Webhook]:
    """Webhooks with a valid token about one activation, each with a wrong code."""
    return [webhooks.daisysim(code=f"66{each:04}") for each in range(codes)]


def code_states(runtime: Runtime) -> Counter[str]:
    """How many codes are in each state."""
    return Counter(code.state for code in all_rows(runtime, Code))


def test_one_answer_settles_every_code_of_its_activation(world: World, runtime: Runtime) -> None:
    """However many codes are forged beside the real one: one call, and one is delivered."""
    answer(world, COMPLETED)
    handle(runtime, *forged(4), SMS, *forged(6)[4:])
    settle(runtime, *all_rows(runtime, Confirmation))

    assert len(world.api.requests()) == 1
    assert code_states(runtime) == {"quarantined": 6, "ready": 1}
    assert code_of_delivery(runtime) == CODE
    for row in all_rows(runtime, Confirmation):
        assert (row.state, row.attempt, row.wake_at, row.lease_until) == ("done", 1, None, None)
    events = Counter(event.state for event in all_rows(runtime, InboxEvent))
    assert events == {"quarantined": 6, "handled": 1}
    assert 1 <= len(notices(runtime)) <= 2  # a minute may have begun in between


def code_of_delivery(runtime: Runtime) -> str | None:
    """The plain code of the only planned delivery."""
    (delivery,) = deliveries(runtime)
    code = fetch(runtime, Code, delivery.code_id or "")
    return codes.open_field(runtime.vault, code, "code")


@pytest.mark.usefixtures("_fresh")
@on_sqlite
def test_one_answer_settles_a_limited_number_of_rows(world: World, runtime: Runtime) -> None:
    """The recording transaction stays short; the next answer settles the rest."""
    answer(world, COMPLETED)
    handle(runtime, *forged(fair_queue.MAX_SIBLINGS + 10), SMS)
    rows = all_rows(runtime, Confirmation)
    settle(runtime, *rows)
    assert len(world.api.requests()) == 1
    assert code_states(runtime) == {"quarantined": fair_queue.MAX_SIBLINGS + 1, "held": 10}

    make_answers_stale(runtime)
    settle(runtime, *(row for row in all_rows(runtime, Confirmation) if row.state == "pending"))
    assert len(world.api.requests()) == 2
    assert code_states(runtime)["held"] == 0
    assert code_of_delivery(runtime) == CODE


def make_answers_stale(runtime: Runtime) -> None:
    """Move all answers back, so that they are no longer fresh."""
    for row in all_rows(runtime, Confirmation):
        if row.done_at is not None:
            change(runtime, row, done_at=row.done_at - 2 * fair_queue.ANSWER_FRESH)


@pytest.mark.usefixtures("_fresh")
def test_a_fresh_answer_prevents_another_call(world: World, runtime: Runtime) -> None:
    """A code reported right after an answer waits until that answer is stale."""
    answer(world, COMPLETED)
    settle(runtime, planned(runtime, SMS))
    handle(runtime, *forged(1))
    (late,) = [row for row in all_rows(runtime, Confirmation) if row.state == "pending"]
    settle(runtime, late)
    deferred = reload(runtime, late)
    assert (deferred.state, deferred.attempt, len(world.api.requests())) == ("pending", 0, 1)
    assert deferred.wake_at is not None
    assert deferred.wake_at - now(runtime) <= fair_queue.ANSWER_FRESH

    make_answers_stale(runtime)
    settle(runtime, late)
    assert len(world.api.requests()) == 2
    assert code_states(runtime) == {"ready": 1, "quarantined": 1}


def test_a_call_in_flight_prevents_another(world: World, runtime: Runtime) -> None:
    """The second code of the activation waits for the answer, and is settled by it."""
    handle(runtime, SMS, *forged(1))
    first, second = all_rows(runtime, Confirmation)

    def slow(_: Request) -> Reply:
        settle_ids(runtime, [second.id])
        return COMPLETED

    answer(world, slow)
    settle(runtime, first)

    assert len(world.api.requests()) == 1
    assert code_states(runtime) == {"ready": 1, "quarantined": 1}


@pytest.mark.parametrize(
    ("reply", "state"), [(WAITING, "quarantined"), (Reply(status=500), "ready")]
)
def test_the_timeout_counts_from_the_first_shared_answer(
    world: World, runtime: Runtime, reply: Reply, state: str
) -> None:
    """Codes of one activation wait together, and one call at a time asks about all of them."""
    answer(world, reply)
    handle(runtime, SMS, *forged(2))
    first, *others = all_rows(runtime, Confirmation)
    settle(runtime, first, *others)
    assert len(world.api.requests()) == 1
    for row in (first, *others):
        current = reload(runtime, row)
        assert (current.state, current.attempt) == ("pending", 1)
        time_out(runtime, row)
    settle(runtime, *(reload(runtime, row) for row in (first, *others)))

    assert len(world.api.requests()) == 2
    assert code_states(runtime) == {state: 3}
    assert {code.verified for code in all_rows(runtime, Code)} == {
        None if state == "quarantined" else False
    }


def test_a_flood_about_many_activations_only_delays_genuine_codes(world: World) -> None:
    """Codes are verified in their sequence, whichever row wakes; a bought number goes first."""
    world.api.on("GET", CHECK_PATH, handler=lambda _: refuses(404, "NOT_FOUND"))
    runtime = world.connect(daisysim=True, slack=True, DAISYSIM_RATE_LIMITS="check=2")
    handle(runtime, *(webhooks.daisysim(activation=f"{each:03}") for each in range(4)))
    handle(runtime, SMS)
    handle(runtime, webhooks.daisysim(activation="bought"))
    for order in all_rows(runtime, Order):
        if order.order_id == "bought":
            change(runtime, order, price="0.18")
    asked: list[str] = []
    for round_ in range(4):
        handle(runtime, *(webhooks.daisysim(activation=f"later {round_}{n}") for n in range(3)))
        waiting = [row.id for row in all_rows(runtime, Confirmation) if row.state == "pending"]
        settle_ids(runtime, waiting[::-1])  # the newest are woken first
        asked = [call.path.split("/")[-1] for call in world.api.requests()]
        assert len(asked) == 2 * (round_ + 1)
        change_budget(runtime, "daisysim:check", spent="[]")

    # Two calls run concurrently.
    pairs = [set(asked[start : start + 2]) for start in range(0, 6, 2)]
    assert pairs == [{"bought", "000"}, {"001", "002"}, {"003", ACTIVATION}]


def test_an_api_that_cannot_verify_ends_the_row(runtime: Runtime) -> None:
    """As dead: no later attempt could succeed."""
    row = planned(runtime, SMS)
    client: Any = SimpleNamespace(calls={}, limits={})
    api = replace(runtime.integrations.apis["daisysim"], client=client)
    integrations = replace(runtime.integrations, apis={"daisysim": api})
    settle(replace(runtime, integrations=integrations), row)

    assert reload(runtime, row).state == "dead"


def test_a_deleted_code_is_not_delivered(runtime: Runtime) -> None:
    """Releasing a row that does not exist plans nothing."""

    def release_unknown(session: Session) -> Any:
        planner = Planner(session, now(runtime))
        release(planner, runtime.vault, runtime.policy, "nobody", verified=True)
        return [*planner.deliveries]

    with runtime.database.transaction() as session:
        assert release_unknown(session) == []
