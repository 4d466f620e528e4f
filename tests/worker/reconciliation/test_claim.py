"""Polling uses only what urgent calls leave of a budget."""

from __future__ import annotations

import pytest

from tests.support import webhooks
from tests.support.http_server import Reply, Request
from tests.support.webhooks import CODE
from tests.worker.reconciliation.reconciling import (
    HISTORY_PATH,
    activation,
    ask,
    bought,
    buy,
    history,
    listing,
    plan,
)
from tests.worker.support import (
    CHECK_PATH,
    SECOND,
    World,
    all_rows,
    at_once,
    change,
    handle,
    make_due,
    now,
    on_sqlite,
    planned,
    reload,
    says,
)
from worker.confirmation.confirm import settle as settle_ids
from worker.reconciliation.reconcile import reconcile
from worker.runtime.runtime import Runtime
from worker.schema.models import Confirmation, Reconciliation

SIX_CHECKS = "check=6"


def orders(runtime: Runtime, count: int) -> list[Reconciliation]:
    """Create ``count`` open orders; return their rows, all due."""
    for number in range(count):
        buy(runtime, f"{1000 + number}")
    plan(runtime)
    rows = [row for row in all_rows(runtime, Reconciliation) if row.action == "order"]
    for row in rows:
        make_due(runtime, row)
    return rows


def test_half_of_the_budget_is_reserved(world: World) -> None:
    """However many orders are open, and however many processes poll."""
    runtime = world.connect(daisysim=True, DAISYSIM_RATE_LIMITS=SIX_CHECKS)
    world.api.on("GET", CHECK_PATH, handler=lambda _: says("Waiting"))
    rows = orders(runtime, 6)
    ids = [row.id for row in rows]
    for _ in range(2):
        at_once([lambda: reconcile(runtime, ids)] * 4)
        for row in rows:
            make_due(runtime, row)

    assert len(world.api.requests("GET", CHECK_PATH)) == 3
    reconcile(runtime, ids)
    deferred = [row.wake_at for row in (reload(runtime, row) for row in rows) if row.wake_at]
    assert min(deferred) > now(runtime) + 30 * SECOND


def test_urgent_calls_are_allowed_at_once(world: World) -> None:
    """A held code is verified although polling has used its share of the budget."""
    runtime = world.connect(daisysim=True, DAISYSIM_RATE_LIMITS=SIX_CHECKS)
    world.api.on("GET", CHECK_PATH, handler=lambda _: says("Waiting"))
    rows = orders(runtime, 6)
    reconcile(runtime, [row.id for row in rows])
    world.api.on("GET", CHECK_PATH, handler=lambda _: says("Completed", CODE))
    for number in range(3):
        row = planned_verification(runtime, f"{number}")
        settle_ids(runtime, [row.id])
        assert reload(runtime, row).state == "done"
    assert len(world.api.requests("GET", CHECK_PATH)) == 6


def planned_verification(runtime: Runtime, order: str) -> Confirmation:
    """Handle a webhook with a code of this order; return its planned verification."""
    handle(runtime, webhooks.daisysim(activation=order))
    (row,) = (each for each in all_rows(runtime, Confirmation) if each.order_id == order)
    return row


@pytest.mark.parametrize("provider", ["daisysim", "virtualsms"])
def test_nothing_is_polled_while_an_urgent_call_waits(world: World, provider: str) -> None:
    """A confirmation or a verification goes first; then the order is polled."""
    runtime = world.connect(daisysim=True, virtualsms=True)
    for path in ("/daisysim/check/*", "/virtualsms/orders/*"):
        world.api.on("GET", path, status=500)
    row = bought(runtime, "77", provider=provider)
    sms = webhooks.daisysim() if provider == "daisysim" else webhooks.virtualsms_v1()
    waiting = planned(runtime, sms)
    row = ask(runtime, row)
    assert (row.attempt, world.api.requests()) == (0, [])
    assert row.wake_at is not None
    assert row.wake_at - now(runtime) <= 2 * SECOND

    change(runtime, waiting, state="done", wake_at=None)
    assert ask(runtime, row).attempt == 1


@on_sqlite
def test_urgent_calls_of_another_budget_do_not_count(world: World, runtime: Runtime) -> None:
    """The history is read while a verification waits: it may report the held code."""
    world.api.on("GET", HISTORY_PATH, json=history(activation(status="cancelled")))
    planned(runtime, webhooks.daisysim())
    plan(runtime)
    assert ask(runtime, listing(runtime)).attempt == 1


@on_sqlite
@pytest.mark.parametrize(("count", "seconds"), [(1, 20), (10, 20), (30, 60)])
def test_more_open_orders_wait_longer(
    world: World, runtime: Runtime, count: int, seconds: int
) -> None:
    """All of them share the budget."""
    world.api.on("GET", CHECK_PATH, handler=lambda _: says("Waiting"))
    ask(runtime, orders(runtime, count)[0])
    (asked,) = (each for each in all_rows(runtime, Reconciliation) if each.attempt)
    assert asked.answered_at is not None
    assert asked.next_attempt_at - asked.answered_at == seconds * SECOND


def test_a_provider_has_two_calls_in_flight_at_most(world: World, runtime: Runtime) -> None:
    """A provider that hangs leaves the other threads to confirmations and deliveries."""
    rows = orders(runtime, 4)

    current, most = 0, 0

    def during_the_call(_: Request) -> Reply:
        nonlocal current, most
        current += 1
        most = max(most, current)
        reconcile(runtime, [row.id for row in rows])
        current -= 1
        return says("Waiting")

    world.api.on("GET", CHECK_PATH, handler=during_the_call)
    reconcile(runtime, [rows[0].id])
    assert (len(world.api.requests("GET", CHECK_PATH)), most) == (4, 2)


@on_sqlite
def test_an_order_near_its_end_is_polled_in_time(world: World, runtime: Runtime) -> None:
    """Its last poll comes shortly after its end, not after the usual interval."""
    world.api.on("GET", CHECK_PATH, handler=lambda _: says("Waiting"))
    row = ask(runtime, bought(runtime, left=-25 * SECOND))
    assert row.next_attempt_at - now(runtime) <= 5 * SECOND
