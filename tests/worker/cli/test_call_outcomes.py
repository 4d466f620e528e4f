"""Spending calls with an unknown outcome: looked up, reported, never repeated."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import pytest

from receiver import clock
from tests.support.http_server import HttpServer, Reply, Request
from tests.support.stores import Store
from tests.support.webhooks import iso
from tests.worker.cli.apis import BUY, MADE, ORDERS, OTHER_PHONE, PHONE
from tests.worker.cli.conftest import Run
from tests.worker.support import all_rows, now, on_sqlite, only_row
from worker.schema.models import Budget, Order, OrderTransition

DAISYSIM_BUY = ("daisysim", "purchase", "6", "wa", "1.1400")
HISTORY = "/api/v1/virtual/history"
PURCHASE = "/api/v1/virtual/purchase"


def order_entry(order_id: str, *, age: float = 0.0, **more: Any) -> dict[str, Any]:
    """An order as the provider lists it, created ``age`` seconds ago."""
    made = clock.now() - timedelta(seconds=age)
    return {"order_id": order_id, "phone_number": PHONE, "created_at": iso(made), **more}


def stored_statuses(store: Store) -> dict[str, str]:
    """The status of each stored order, by its id."""
    return {order.order_id: order.status for order in all_rows(store, Order)}


def test_lookup_finds_an_order_that_was_created(store: Store, run: Run, api: HttpServer) -> None:
    """The new order is found, reported and recorded; older and known orders are ignored."""
    api.on("POST", ORDERS, json=MADE)
    assert run(*BUY, "--yes").code == 0
    api.on("POST", ORDERS, cut=True)
    lines = [
        order_entry("ord_2", price="0.18", service="wa"),
        order_entry("ord_1"),
        order_entry("ord_0", age=3600),
    ]
    api.on("GET", ORDERS, json={"orders": [*lines, {"order_id": "undated"}]})
    answer = run(*BUY, "--yes")
    assert (answer.code, answer.out) == (1, "")
    assert "not repeated" in answer.err
    assert "may come from this call: codecatch wait ord_2 --provider virtualsms\n" in answer.err
    assert not {"ord_1", "ord_0", "undated"} & set(answer.err.split())
    assert stored_statuses(store) == {"ord_1": "waiting", "ord_2": "waiting"}
    assert len(api.requests("POST")) == 2
    answer.hides(PHONE)


def test_lookup_finds_an_activation_that_was_bought(
    store: Store, run: Run, api: HttpServer
) -> None:
    """An answer without an activation id is an unknown outcome; the history shows the purchase."""
    api.on("POST", PURCHASE, json={"success": True, "data": {}})
    bought = order_entry("4711", status="waiting", price="1.1400")
    bought["activation_id"] = bought.pop("order_id")
    api.on("GET", HISTORY, json={"success": True, "data": {"orders": [bought]}})
    answer = run(*DAISYSIM_BUY, "--yes")
    assert answer.code == 1
    assert "codecatch wait 4711 --provider daisysim" in answer.err
    assert stored_statuses(store) == {"4711": "waiting"}
    assert only_row(store, Order).price == "1.1400"
    assert len(api.requests("POST")) == 1
    spent = {row.key: json.loads(row.spent) for row in all_rows(store, Budget)}
    assert {key: sum(calls for _, calls in row) for key, row in spent.items()} == {
        "daisysim:purchase": 1,
        "daisysim:history": 1,
    }


@on_sqlite
def test_lookup_takes_an_open_order_without_a_date(store: Store, run: Run, api: HttpServer) -> None:
    """It may be the one; one that is over is not."""
    api.on("POST", PURCHASE, cut=True)
    rows = [{"id": 4711, "status": "Waiting"}, {"id": 4712, "status": "completed"}, {"id": 4713}]
    api.on("GET", HISTORY, json={"success": True, "data": {"activations": rows}})
    answer = run(*DAISYSIM_BUY, "--yes")
    assert answer.code == 1
    assert answer.err.count("may come from this call") == 1
    assert "codecatch wait 4711 --provider daisysim" in answer.err
    assert stored_statuses(store) == {"4711": "waiting"}


@on_sqlite
@pytest.mark.parametrize(
    ("words", "made", "listed"),
    [(BUY, ORDERS, ORDERS), (DAISYSIM_BUY, PURCHASE, HISTORY)],
    ids=["virtualsms", "daisysim"],
)
def test_lookup_without_a_new_order(  # noqa: PLR0917 - the example's own
    store: Store, run: Run, api: HttpServer, words: tuple[str, ...], made: str, listed: str
) -> None:
    """The absence is reported with the command to check again; the call is not repeated."""
    api.on("POST", made, status=500, body=b"<html>")
    api.on("GET", listed, json={"data": {"orders": []}})
    answer = run(*words, "--yes")
    assert answer.code == 1
    look = "list-orders" if words == BUY else "history"
    expected = f"no new order is listed; check before you retry: codecatch {words[0]} {look}\n"
    assert answer.err.endswith(expected)
    assert stored_statuses(store) == {}
    assert len(api.requests("POST")) == 1


@on_sqlite
def test_lookup_that_fails(run: Run, api: HttpServer) -> None:
    """The outcome stays unknown, and the command to check it is printed."""
    api.on("POST", f"{ORDERS}/ord_1/confirm", cut=True)
    api.on("GET", f"{ORDERS}/ord_1", status=502)
    answer = run("virtualsms", "confirm-order", "ord_1", "--yes")
    assert (answer.code, answer.out) == (1, "")
    assert answer.err.endswith(
        "the outcome is still unknown (virtualsms get_order: 502); check before you retry: "
        "codecatch virtualsms get-order ord_1\n"
    )
    assert len(api.requests()) == 2


@on_sqlite
def test_lookup_uses_the_call_budget(store: Store, run: Run, api: HttpServer) -> None:
    """Without budget for the lookup the provider is not called."""
    until = now(store) + timedelta(hours=1)

    def block(_: Request) -> Reply:
        with store.database.transaction() as session:
            session.get_one(Budget, "virtualsms:calls").blocked_until = until
        return Reply(cut=True)

    api.on("POST", ORDERS, handler=block)
    api.on("GET", ORDERS, json=[])
    answer = run(*BUY, "--yes")
    assert answer.code == 1
    assert "the outcome is still unknown" in answer.err
    assert api.requests("GET") == []


@pytest.mark.parametrize(
    ("verb", "said", "code"),
    [
        ("confirm", "confirmed", 0),
        ("confirm", "received", 1),
        ("cancel", "cancelled", 0),
        ("cancel", "waiting", 1),
        ("release", "waiting", 1),
        ("release", "Odd", 1),
    ],
)
def test_lookup_reports_the_state_of_the_order(  # noqa: PLR0917 - the example's own
    store: Store, run: Run, api: HttpServer, verb: str, said: str, code: int
) -> None:
    """A completed call is recorded; any other state is shown and is a failure."""
    api.on("POST", f"{ORDERS}/ord_1/{verb}", cut=True)
    api.on("GET", f"{ORDERS}/ord_1", json={**MADE, "status": said})
    name = {"release": "release-rental"}.get(verb, f"{verb}-order")
    answer = run("virtualsms", name, "ord_1", "--yes")
    assert answer.code == code
    assert f"status:       {said}" in answer.out
    assert ("the order shows that the call succeeded" in answer.err) is (code == 0)
    assert ("check before you retry" in answer.err) is (code == 1)
    assert stored_statuses(store) == ({"ord_1": said} if code == 0 else {})
    assert len(api.requests("POST")) == 1
    answer.hides(PHONE)


@pytest.mark.parametrize(
    ("known", "phone", "code"),
    [
        (True, OTHER_PHONE, 0),
        (True, PHONE, 1),
        (True, "+44 (0)7700 900123", 1),
        (True, "07700900123", 1),
        (False, PHONE, 1),
    ],
)
def test_lookup_detects_a_swap_by_the_number(  # noqa: PLR0917 - the example's own
    store: Store, run: Run, api: HttpServer, known: bool, phone: str, code: int
) -> None:
    """A number other than the stored one proves it; else success is not claimed."""
    api.on("POST", ORDERS, json=MADE)
    assert not known or run(*BUY, "--yes").code == 0
    api.on("POST", f"{ORDERS}/ord_1/swap", status=504)
    api.on("GET", f"{ORDERS}/ord_1", json={**MADE, "phone_number": phone, "status": "waiting"})
    answer = run("virtualsms", "swap-order", "ord_1", "--yes")
    assert answer.code == code
    assert ("above is the current state of the order" in answer.err) is (code == 1)
    phones = [order.phone_digest for order in all_rows(store, Order)]
    expected = PHONE if code else OTHER_PHONE
    assert phones == [store.vault.digest("phone", expected)] * known
    swaps = [step for step in all_rows(store, OrderTransition) if "swap" in step.kind]
    assert len(swaps) == 1 - code


@on_sqlite
def test_lookup_of_a_cancelled_activation(store: Store, run: Run, api: HttpServer) -> None:
    """`check` is the lookup call of DaisySIM's cancel."""
    api.on("POST", "/api/v1/virtual/cancel/4711", cut=True)
    api.on("GET", "/api/v1/virtual/check/4711", json={"data": {"status": "Cancelled"}})
    assert run("daisysim", "cancel", "4711", "--yes").code == 0
    assert stored_statuses(store) == {"4711": "cancelled"}


@on_sqlite
def test_a_reading_call_is_not_looked_up(run: Run, api: HttpServer) -> None:
    """Its outcome may be unknown too, but it can simply be repeated."""
    api.on("GET", f"{ORDERS}/ord_1", cut=True)
    answer = run("virtualsms", "get-order", "ord_1")
    assert answer.code == 1
    assert answer.err.endswith(": try again later\n")
    assert len(api.requests()) == 1
