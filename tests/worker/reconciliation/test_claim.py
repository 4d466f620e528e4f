"""What asking may cost: no more than is left by what people wait for."""

from __future__ import annotations

from functools import partial

import pytest

from tests.support import webhooks
from tests.support.webhooks import CODE
from tests.worker.reconciliation.reconciling import (
    HISTORY_PATH,
    activation,
    ask,
    buy,
    history,
    listing,
    plan,
    says,
    watch,
    watched,
)
from tests.worker.support import (
    CHECK_PATH,
    SECOND,
    World,
    again,
    at_once,
    change,
    everything,
    handle,
    make_due,
    now,
    on_sqlite,
    planned,
    settle,
)
from worker.confirmation import confirm as confirmation
from worker.reconciliation import reconcile as reconciling
from worker.runtime.runtime import Runtime
from worker.schema.models import Confirmation, Reconciliation

SIX_CHECKS = "check=6"


def orders(made: Runtime, count: int) -> list[Reconciliation]:
    """The rows of so many open orders, all due."""
    for number in range(count):
        buy(made, f"{1000 + number}")
    plan(made)
    rows = [row for row in everything(made, Reconciliation) if row.action == "order"]
    for row in rows:
        make_due(made, row)
    return rows


def test_a_half_of_the_budget_is_never_touched(world: World) -> None:
    """However many orders are open, and however many processes ask."""
    made = world.connect(daisysim=True, DAISYSIM_RATE_LIMITS=SIX_CHECKS)
    world.api.on("GET", CHECK_PATH, handler=lambda _: says("Waiting"))
    rows = orders(made, 6)
    ids = [row.id for row in rows]
    for _ in range(2):
        at_once([lambda: reconciling.reconcile(made, ids)] * 4)
        for row in rows:
            make_due(made, row)

    assert len(world.api.requests("GET", CHECK_PATH)) == 3
    reconciling.reconcile(made, ids)
    put_off = [row.wake_at for row in (again(made, row) for row in rows) if row.wake_at]
    assert min(put_off) > now(made) + 30 * SECOND


def test_what_people_wait_for_is_paid_at_once(world: World) -> None:
    """A held code is asked about in a budget that reconciliation has used as far as it may."""
    made = world.connect(daisysim=True, DAISYSIM_RATE_LIMITS=SIX_CHECKS)
    world.api.on("GET", CHECK_PATH, handler=lambda _: says("Waiting"))
    rows = orders(made, 6)
    reconciling.reconcile(made, [row.id for row in rows])
    world.api.on("GET", CHECK_PATH, handler=lambda _: says("Completed", CODE))
    for number in range(3):
        row = planned_for(made, f"{number}")
        confirmation.settle(made, [row.id])
        assert again(made, row).state == "done"
    assert len(world.api.requests("GET", CHECK_PATH)) == 6


def planned_for(made: Runtime, order: str) -> Confirmation:
    """The question about a code of this order that came by a webhook."""
    handle(made, webhooks.daisysim(activation=order))
    (row,) = (each for each in everything(made, Confirmation) if each.order_id == order)
    return row


@pytest.mark.parametrize("provider", ["daisysim", "virtualsms"])
def test_nothing_is_asked_while_something_more_urgent_waits(world: World, provider: str) -> None:
    """A confirmation, or a question about a held code, goes first; then it is this one's turn."""
    made = world.connect(daisysim=True, virtualsms=True)
    for path in ("/daisysim/check/*", "/virtualsms/orders/*"):
        world.api.on("GET", path, status=500)
    row = watched(made, "77", provider=provider)
    sms = webhooks.daisysim() if provider == "daisysim" else webhooks.virtualsms_v1()
    waiting = planned(made, sms)
    row = ask(made, row)
    assert (row.attempt, world.api.requests()) == (0, [])
    assert row.wake_at is not None
    assert row.wake_at - now(made) <= 2 * SECOND

    change(made, waiting, state="done", wake_at=None)
    assert ask(made, row).attempt == 1


@on_sqlite
def test_another_budget_is_another_matter(world: World) -> None:
    """The history is read while held codes wait for checks; it may tell what they wait for."""
    made = world.connect(daisysim=True)
    world.api.on("GET", HISTORY_PATH, json=history(activation(status="cancelled")))
    planned(made, webhooks.daisysim())
    plan(made)
    assert ask(made, listing(made)).attempt == 1


@on_sqlite
@pytest.mark.parametrize(("count", "seconds"), [(1, 20), (10, 20), (30, 60)])
def test_more_open_orders_wait_longer(world: World, count: int, seconds: int) -> None:
    """So that all of them share what may be spent."""
    made = world.connect(daisysim=True)
    world.api.on("GET", CHECK_PATH, handler=lambda _: says("Waiting"))
    ask(made, orders(made, count)[0])
    (asked,) = (each for each in everything(made, Reconciliation) if each.attempt)
    assert asked.answered_at is not None
    assert asked.next_attempt_at - asked.answered_at == seconds * SECOND


def test_a_provider_that_hangs_keeps_two_threads_at_most(world: World) -> None:
    """The others are for confirming and telling."""
    made = world.connect(daisysim=True)
    world.api.on("GET", CHECK_PATH, json=says("Waiting").json, hang=0.6)
    rows = orders(made, 4)
    at_once([partial(reconciling.reconcile, made, [row.id]) for row in rows])
    assert len(world.api.requests("GET", CHECK_PATH)) == 2


@on_sqlite
def test_an_order_that_ends_sooner_is_asked_in_time(world: World) -> None:
    """Its last question comes a little after its end, not when its turn would be."""
    made = world.connect(daisysim=True)
    world.api.on("GET", CHECK_PATH, handler=lambda _: says("Waiting"))
    row = ask(made, watched(made, left=-25 * SECOND))
    assert row.next_attempt_at - now(made) <= 5 * SECOND


@on_sqlite
def test_a_settled_code_costs_its_own_call_only(world: World) -> None:
    """Asking about an order that has ended meanwhile is not paid for."""
    made = world.connect(daisysim=True)
    world.api.on("GET", CHECK_PATH, handler=lambda _: says("Completed", CODE))
    row = watched(made)
    settle(made, planned(made, webhooks.daisysim()))
    ask(made, row)
    plan(made)
    assert watch(made).wake_at is None
    assert len(world.api.requests("GET", CHECK_PATH)) == 1
