"""Asking back about unsigned codes before anybody is told."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
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
    again,
    at_once,
    change,
    everything,
    fetch,
    handle,
    lapse,
    now,
    on_sqlite,
    only,
    planned,
    settle,
)
from worker.confirmation import (
    confirm as confirmation,
)
from worker.confirmation import (
    fair_queue,
)
from worker.handling.ready_codes import release
from worker.orders import codes
from worker.outbox import leases
from worker.outbox.leases import CALL_LEASE
from worker.outbox.planner import Planner
from worker.providers.virtualsms.api import VirtualSMS
from worker.runtime.runtime import Runtime
from worker.schema.models import (
    Budget,
    Code,
    Confirmation,
    Delivery,
    Order,
    OrderTransition,
    table_of,
)
from worker.schema.states import OPERATORS

SMS = webhooks.daisysim()
LONG_AGO = 31 * SECOND


def says(status: str, code: str | None = None) -> Reply:
    """The provider's answer about an activation."""
    data = {"status": status, "phone_number": webhooks.US_PHONE, "code": code}
    return Reply(json={"success": True, "data": data})


def refuses(status: int, code: str) -> Reply:
    """An error as the provider's documents show it."""
    return Reply(status=status, json={"success": False, "error": "words", "code": code})


COMPLETED = says("Completed", CODE)
BARE = Reply(json={"data": {"status": "Completed", "code": CODE}})
WAITING = says("Waiting")


@pytest.fixture
def made(world: World) -> Runtime:
    """A worker that asks back and tells Slack."""
    return world.connect(daisysim=True, slack=True)


def answer(world: World, reply: Reply | Callable[[Request], Reply]) -> None:
    """Let the provider answer so from now on."""
    world.api.on("GET", CHECK_PATH, handler=reply if callable(reply) else lambda _: reply)


def told(made: Runtime, type_: str = "sms.received") -> list[Delivery]:
    """The deliveries of a type."""
    return [row for row in everything(made, Delivery) if row.type == type_]


def after_patience(made: Runtime, row: Confirmation) -> None:
    """Let half a minute pass since the provider was first asked."""
    current = again(made, row)
    asked = current.asked_since or now(made)
    change(made, current, asked_since=asked - LONG_AGO)


@pytest.mark.parametrize("reply", [COMPLETED, BARE, says("completed", CODE)])
def test_a_code_that_the_provider_vouches_for_is_told(
    world: World, made: Runtime, reply: Reply
) -> None:
    """By one question about this activation; the order is finished by that."""
    answer(world, reply)
    row = planned(made, SMS)
    assert (row.action, told(made)) == ("verify", [])
    settle(made, row)

    (call,) = world.api.requests()
    assert (call.method, call.path.split("/")[-1]) == ("GET", ACTIVATION)
    assert call.headers["authorization"] == f"Bearer {DAISYSIM_KEY}"
    code = only(made, Code)
    assert (code.state, code.verified) == ("ready", True)
    assert (again(made, row).state, again(made, row).error) == ("done", None)
    assert only(made, Order).status == "confirmed"
    assert "verified" in {step.kind for step in everything(made, OrderTransition)}
    (delivery,) = told(made)
    deliver_ids(made, [delivery.id])
    (message,) = world.sent_to()
    assert CODE in str(message)
    assert "not verified" not in str(message)


CONTRADICTIONS = {
    "another code": (says("Completed", "666666"), "another code"),
    "no code": (says("Completed"), "another code"),
    "a code that is no text": (says("Completed", "\ud800"), "another code"),
    "404": (refuses(404, "NOT_FOUND"), "no such order"),
    "404 without a word": (Reply(status=404, body=b"<html>"), "no such order"),
    "400": (Reply(status=400, json={"success": False, "error": "bad id"}), "no such order"),
}


@on_sqlite
@pytest.mark.parametrize("case", CONTRADICTIONS)
def test_a_code_that_the_provider_contradicts_is_quarantined(
    world: World, made: Runtime, case: str
) -> None:
    """At once: the operators are told, the code is told to nobody, its event says why."""
    reply, reason = CONTRADICTIONS[case]
    answer(world, reply)
    row = planned(made, SMS)
    settle(made, row)

    assert only(made, Code).state == "quarantined"
    assert told(made) == []
    (notice,) = told(made, OPERATORS)
    assert reason in (notice.detail or "")
    event = only(made, InboxEvent)
    assert event.state == "quarantined"
    assert reason in (event.error or "")
    assert (again(made, row).state, again(made, row).wake_at) == ("done", None)
    assert only(made, Order).status == "received"
    for delivery in everything(made, Delivery):
        deliver_ids(made, [delivery.id])
    assert CODE not in str(world.sent_to())


def test_an_id_that_cannot_be_asked_about_is_a_contradiction(world: World, made: Runtime) -> None:
    """No activation is called so: whoever sent it is not the provider."""
    row = planned(made, webhooks.daisysim(activation=".."))
    settle(made, row)

    assert world.api.requests() == []
    assert only(made, Code).state == "quarantined"


def test_a_provider_that_still_waits_is_asked_again(world: World, made: Runtime) -> None:
    """In some seconds; the code is held meanwhile."""
    world.api.once("GET", CHECK_PATH, WAITING)
    answer(world, COMPLETED)
    row = planned(made, SMS)
    settle(made, row)
    waiting = again(made, row)
    assert (waiting.state, only(made, Code).state, told(made)) == ("pending", "held", [])
    assert waiting.next_attempt_at - now(made) <= 3 * SECOND

    settle(made, waiting)
    assert only(made, Code).verified is True


def test_a_provider_that_waits_for_long_contradicts(world: World, made: Runtime) -> None:
    """After half a minute of "not yet" the code is quarantined."""
    answer(world, WAITING)
    row = planned(made, SMS)
    settle(made, row)
    after_patience(made, row)
    settle(made, again(made, row))

    assert only(made, Code).state == "quarantined"
    assert only(made, InboxEvent).state == "quarantined"
    assert told(made) == []


SILENCES = {
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
@pytest.mark.parametrize("case", SILENCES)
def test_a_provider_that_cannot_say_does_not_keep_a_code_for_ever(
    world: World, made: Runtime, case: str
) -> None:
    """It is asked again for half a minute; then the code is told, marked."""
    answer(world, SILENCES[case])
    row = planned(made, SMS)
    settle(made, row)
    assert (again(made, row).state, only(made, Code).state, told(made)) == ("pending", "held", [])

    after_patience(made, row)
    settle(made, again(made, row))

    code = only(made, Code)
    assert (code.state, code.verified) == ("ready", False)
    assert only(made, Order).status == "received"
    assert only(made, InboxEvent).state == "handled"
    (delivery,) = told(made)
    deliver_ids(made, [delivery.id])
    (message,) = world.sent_to()
    assert CODE in str(message)
    assert "not verified" in str(message)


def test_the_providers_rate_limit_holds_a_code(world: World, made: Runtime) -> None:
    """However long it lasts: a flood of forged events must not get one told unverified."""
    world.api.once("GET", CHECK_PATH, Reply(status=429, headers={"Retry-After": "60"}))
    row = planned(made, SMS)
    after_patience(made, row)
    settle(made, row)

    held = again(made, row)
    assert (held.state, only(made, Code).state, told(made)) == ("pending", "held", [])
    budget = fetch(made, Budget, "daisysim:check")
    assert budget.blocked_until is not None
    answer(world, COMPLETED)
    change_budget(made, blocked_until=None)
    settle(made, held)
    assert only(made, Code).verified is True


def change_budget(made: Runtime, **values: object) -> None:
    """Write to the budget of questions."""
    with made.database.transaction() as session:
        budget = session.get_one(Budget, "daisysim:check")
        for name, value in values.items():
            setattr(budget, name, value)


def test_a_spent_budget_holds_a_code(world: World) -> None:
    """Never told unverified: it waits until the provider can be asked."""
    answer(world, COMPLETED)
    made = world.connect(daisysim=True, slack=True, DAISYSIM_RATE_LIMITS="check=2")
    handle(made, *(webhooks.daisysim(activation=str(each)) for each in range(5)))
    rows = everything(made, Confirmation)
    settle(made, *rows)
    for row in rows:
        if again(made, row).state == "pending":
            change(made, row, created_at=now(made) - LONG_AGO)
    settle(made, *rows)

    assert len(world.api.requests()) == 2
    assert states(made) == {"held": 3, "ready": 2}
    assert len(told(made)) == 2
    change_budget(made, spent="[]")
    settle(made, *(row for row in everything(made, Confirmation) if row.state == "pending"))
    assert len(world.api.requests()) == 4


@on_sqlite
@pytest.mark.parametrize("state", ["ready", "discarded", "quarantined"])
def test_a_code_that_a_person_has_decided_about_is_not_asked_about(
    world: World, made: Runtime, state: str
) -> None:
    """Released or discarded meanwhile: there is nothing left to verify."""
    row = planned(made, SMS)
    change(made, only(made, Code), state=state)
    settle(made, row)

    assert again(made, row).state == "done"
    assert (only(made, Code).state, told(made)) == (state, [])
    assert world.api.requests() == []


@pytest.mark.parametrize("reply", [COMPLETED, says("Completed", "666666")])
@pytest.mark.parametrize("state", ["ready", "discarded"])
def test_a_decision_during_the_question_stands(
    world: World, made: Runtime, reply: Reply, state: str
) -> None:
    """The person's word counts, whatever the provider says a moment later."""
    row = planned(made, SMS)

    def meanwhile(_: Request) -> Reply:
        change(made, only(made, Code), state=state)
        return reply

    answer(world, meanwhile)
    settle(made, row)

    assert (again(made, row).state, only(made, Code).state) == ("done", state)
    assert everything(made, Delivery) == []
    assert only(made, InboxEvent).state == "handled"


def test_a_purged_code_is_not_asked_about(world: World, made: Runtime) -> None:
    """There is nothing left to compare with."""
    row = planned(made, SMS)
    change(made, only(made, Code), code=None)
    settle(made, row)

    assert again(made, row).state == "done"
    assert world.api.requests() == []


def test_a_code_that_cannot_be_opened_is_quarantined(world: World, made: Runtime) -> None:
    """The reason names what cannot be opened, and the row comes to an end."""
    row = planned(made, SMS)
    code = only(made, Code)
    assert code.code is not None
    change(made, code, code=code.code[:-1] + bytes([code.code[-1] ^ 1]))
    settle(made, row)

    assert again(made, row).state == "done"
    assert only(made, Code).state == "quarantined"
    assert "was altered" in (only(made, InboxEvent).error or "")
    assert world.api.requests() == []


def test_a_question_that_nobody_survived(world: World, made: Runtime) -> None:
    """After ten holders the code is told as not verified, without another question."""
    row = planned(made, SMS)
    for _ in range(10):
        with made.database.transaction() as session:
            at = made.database.now(session)
            table = table_of(Confirmation)
            leases.claim(session, table, [row.id], now=at, lease=CALL_LEASE, state="sending")
        lapse(made, again(made, row))
    confirmation.settle(made, [row.id])

    assert (only(made, Code).state, only(made, Code).verified) == ("ready", False)
    assert len(told(made)) == 1
    assert world.api.requests() == []


def test_questions_at_once_tell_once(world: World, made: Runtime) -> None:
    """The same message in many hands is one question and one delivery."""
    answer(world, COMPLETED)
    row = planned(made, SMS)
    at_once([lambda: confirmation.settle(made, [row.id])] * 6)

    assert len(world.api.requests()) == 1
    assert len(told(made)) == 1


@pytest.fixture
def _fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let an answer stay fresh however slow this machine is."""
    monkeypatch.setattr(fair_queue, "MOMENT", 60 * SECOND)


def forged(codes: int) -> list[Webhook]:
    """Webhooks with a valid token about one activation, none with its code."""
    return [webhooks.daisysim(code=f"66{each:04}") for each in range(codes)]


def states(made: Runtime) -> Counter[str]:
    """How many codes are in each state."""
    return Counter(code.state for code in everything(made, Code))


def test_one_answer_settles_every_code_of_its_activation(world: World, made: Runtime) -> None:
    """However many codes somebody forges beside the real one: a single call, one is told."""
    answer(world, COMPLETED)
    handle(made, *forged(4), SMS, *forged(6)[4:])
    settle(made, *everything(made, Confirmation))

    assert len(world.api.requests()) == 1
    assert states(made) == {"quarantined": 6, "ready": 1}
    assert code_of_delivery(made) == CODE
    for row in everything(made, Confirmation):
        assert (row.state, row.attempt, row.wake_at, row.lease_until) == ("done", 1, None, None)
    events = Counter(event.state for event in everything(made, InboxEvent))
    assert events == {"quarantined": 6, "handled": 1}
    assert 1 <= len(told(made, OPERATORS)) <= 2  # a minute may have begun in between


def code_of_delivery(made: Runtime) -> str | None:
    """The plain code of the only one that is told."""
    (delivery,) = told(made)
    code = fetch(made, Code, delivery.code_id or "")
    return codes.open_field(made.vault, code, "code")


@pytest.mark.usefixtures("_fresh")
@on_sqlite
def test_one_answer_settles_no_more_than_fits(world: World, made: Runtime) -> None:
    """The transaction that records it stays short; the rest is settled by the next answer."""
    answer(world, COMPLETED)
    handle(made, *forged(fair_queue.MOST_SIBLINGS + 10), SMS)
    rows = everything(made, Confirmation)
    settle(made, *rows)
    assert len(world.api.requests()) == 1
    assert states(made) == {"quarantined": fair_queue.MOST_SIBLINGS + 1, "held": 10}

    moment_passes(made)
    settle(made, *(row for row in everything(made, Confirmation) if row.state == "pending"))
    assert len(world.api.requests()) == 2
    assert states(made)["held"] == 0
    assert code_of_delivery(made) == CODE


def moment_passes(made: Runtime) -> None:
    """Let an answer grow too old to count as the latest word."""
    for row in everything(made, Confirmation):
        if row.done_at is not None:
            change(made, row, done_at=row.done_at - 2 * fair_queue.MOMENT)


@pytest.mark.usefixtures("_fresh")
def test_an_activation_is_asked_about_once_in_a_moment(world: World, made: Runtime) -> None:
    """What is reported right after an answer waits until that is no longer fresh."""
    answer(world, COMPLETED)
    settle(made, planned(made, SMS))
    handle(made, *forged(1))
    (late,) = [row for row in everything(made, Confirmation) if row.state == "pending"]
    settle(made, late)
    put_off = again(made, late)
    assert (put_off.state, put_off.attempt, len(world.api.requests())) == ("pending", 0, 1)
    assert put_off.wake_at is not None
    assert put_off.wake_at - now(made) <= fair_queue.MOMENT

    moment_passes(made)
    settle(made, late)
    assert len(world.api.requests()) == 2
    assert states(made) == {"ready": 1, "quarantined": 1}


def test_nobody_asks_while_another_asks_about_the_same(world: World, made: Runtime) -> None:
    """The second code waits for the answer that is on its way, and is settled by it."""
    handle(made, SMS, *forged(1))
    first, second = everything(made, Confirmation)

    def slow(_: Request) -> Reply:
        confirmation.settle(made, [second.id])
        return COMPLETED

    answer(world, slow)
    settle(made, first)

    assert len(world.api.requests()) == 1
    assert states(made) == {"ready": 1, "quarantined": 1}


@pytest.mark.parametrize(
    ("reply", "state"), [(WAITING, "quarantined"), (Reply(status=500), "ready")]
)
def test_patience_counts_from_the_first_answer_that_was_shared(
    world: World, made: Runtime, reply: Reply, state: str
) -> None:
    """Codes of one activation wait together, and are asked about together, by one call a time."""
    answer(world, reply)
    handle(made, SMS, *forged(2))
    first, *others = everything(made, Confirmation)
    settle(made, first, *others)
    assert len(world.api.requests()) == 1
    for row in (first, *others):
        current = again(made, row)
        assert (current.state, current.attempt) == ("pending", 1)
        after_patience(made, row)
    settle(made, *(again(made, row) for row in (first, *others)))

    assert len(world.api.requests()) == 2
    assert states(made) == {state: 3}
    assert {code.verified for code in everything(made, Code)} == {
        None if state == "quarantined" else False
    }


@pytest.mark.parametrize("state", ["ready", "discarded"])
def test_a_decision_about_another_code_stands(world: World, made: Runtime, state: str) -> None:
    """The answer that settles the rest leaves alone what a person has decided meanwhile."""
    answer(world, COMPLETED)
    handle(made, SMS, *forged(1))
    first, second = everything(made, Confirmation)
    change(made, fetch(made, Code, second.code_id), state=state)
    settle(made, first)

    assert (again(made, second).state, fetch(made, Code, second.code_id).state) == ("done", state)
    assert len(told(made)) == 1


def test_a_flood_about_many_activations_delays_honest_codes_at_most(world: World) -> None:
    """Codes are asked about as they came, whoever is woken first; a number we bought goes ahead."""
    world.api.on("GET", CHECK_PATH, handler=lambda _: refuses(404, "NOT_FOUND"))
    made = world.connect(daisysim=True, slack=True, DAISYSIM_RATE_LIMITS="check=2")
    handle(made, *(webhooks.daisysim(activation=f"{each:03}") for each in range(4)))
    handle(made, SMS)
    handle(made, webhooks.daisysim(activation="bought"))
    for order in everything(made, Order):
        if order.order_id == "bought":
            change(made, order, price="0.18")
    asked: list[str] = []
    for round_ in range(4):
        handle(made, *(webhooks.daisysim(activation=f"later {round_}{n}") for n in range(3)))
        waiting = [row.id for row in everything(made, Confirmation) if row.state == "pending"]
        confirmation.settle(made, waiting[::-1])  # the newest are woken first
        asked = [call.path.split("/")[-1] for call in world.api.requests()]
        assert len(asked) == 2 * (round_ + 1)
        change_budget(made, spent="[]")

    # Two at a time, side by side.
    pairs = [set(asked[place : place + 2]) for place in range(0, 6, 2)]
    assert pairs == [{"bought", "000"}, {"001", "002"}, {"003", ACTIVATION}]


def test_no_transaction_is_open_during_a_question(world: World, made: Runtime) -> None:
    """While the provider takes its time everybody can write, to the same code too."""
    row = planned(made, SMS)

    def slow(_: Request) -> Reply:
        change(made, only(made, Code), country="US")
        return COMPLETED

    answer(world, slow)
    settle(made, row)

    assert (only(made, Code).state, only(made, Code).country) == ("ready", "US")


def test_a_provider_that_cannot_vouch_ends_the_question(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing would ever come of it."""
    made = world.connect(virtualsms=True, daisysim=True, slack=True)
    monkeypatch.setattr(VirtualSMS, "limits", {"check": 60})
    row = planned(made, SMS)
    swapped = replace(made.integrations, apis={"daisysim": made.integrations.apis["virtualsms"]})
    settle(replace(made, integrations=swapped), row)

    assert again(made, row).state == "dead"


def test_a_code_that_is_gone_is_told_to_nobody(made: Runtime) -> None:
    """Releasing what was purged in between plans nothing."""

    def release_nobody(session: Session) -> Any:
        planner = Planner(session, now(made))
        release(planner, made.vault, made.policy.routing, "nobody", verified=True)
        return [*planner.deliveries]

    with made.database.transaction() as session:
        assert release_nobody(session) == []
