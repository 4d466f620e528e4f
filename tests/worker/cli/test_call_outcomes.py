"""A spending call whose outcome is unknown: looked at, said in words, and never repeated."""

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
from tests.worker.support import everything, now, on_sqlite, only
from worker.schema.models import Budget, Order, OrderTransition

DAISYSIM_BUY = ("daisysim", "purchase", "6", "wa", "1.1400")
HISTORY = "/api/v1/virtual/history"
PURCHASE = "/api/v1/virtual/purchase"


def line(order_id: str, *, age: float = 0.0, **more: Any) -> dict[str, Any]:
    """An order as a list has it, made so many seconds ago."""
    made = clock.now() - timedelta(seconds=age)
    return {"order_id": order_id, "phone_number": PHONE, "created_at": iso(made), **more}


def known(store: Store) -> dict[str, str]:
    """The state of each order that is known here, by its id."""
    return {order.order_id: order.status for order in everything(store, Order)}


def test_an_order_that_was_made_all_the_same(store: Store, run: Run, api: HttpServer) -> None:
    """It is found in the list, named and known from then on; the older and the known are not."""
    api.on("POST", ORDERS, json=MADE)
    assert run(*BUY, "--yes").code == 0
    api.on("POST", ORDERS, cut=True)
    lines = [line("ord_2", price="0.18", service="wa"), line("ord_1"), line("ord_0", age=3600)]
    api.on("GET", ORDERS, json={"orders": [*lines, {"order_id": "undated"}]})
    answer = run(*BUY, "--yes")
    assert (answer.code, answer.out) == (1, "")
    assert "not repeated" in answer.err
    assert "it may be the one: codecatch wait ord_2 --provider virtualsms\n" in answer.err
    assert not {"ord_1", "ord_0", "undated"} & set(answer.err.split())
    assert known(store) == {"ord_1": "waiting", "ord_2": "waiting"}
    assert len(api.requests("POST")) == 2
    answer.hides(PHONE)


def test_an_activation_that_was_bought_all_the_same(
    store: Store, run: Run, api: HttpServer
) -> None:
    """An answer without what it is for says nothing either: the history does."""
    api.on("POST", PURCHASE, json={"success": True, "data": {}})
    bought = line("4711", status="waiting", price="1.1400")
    bought["activation_id"] = bought.pop("order_id")
    api.on("GET", HISTORY, json={"success": True, "data": {"orders": [bought]}})
    answer = run(*DAISYSIM_BUY, "--yes")
    assert answer.code == 1
    assert "codecatch wait 4711 --provider daisysim" in answer.err
    assert known(store) == {"4711": "waiting"}
    assert only(store, Order).price == "1.1400"
    assert len(api.requests("POST")) == 1
    spent = {row.key: json.loads(row.spent) for row in everything(store, Budget)}
    assert {key: sum(calls for _, calls in row) for key, row in spent.items()} == {
        "daisysim:purchase": 1,
        "daisysim:history": 1,
    }


@on_sqlite
@pytest.mark.parametrize(
    ("words", "made", "listed"),
    [(BUY, ORDERS, ORDERS), (DAISYSIM_BUY, PURCHASE, HISTORY)],
    ids=["virtualsms", "daisysim"],
)
def test_nothing_new_is_listed(  # noqa: PLR0917 - the example's own
    store: Store, run: Run, api: HttpServer, words: tuple[str, ...], made: str, listed: str
) -> None:
    """That is said, with how to look again; it is no proof, so nothing is repeated."""
    api.on("POST", made, status=500, body=b"<html>")
    api.on("GET", listed, json={"data": {"orders": []}})
    answer = run(*words, "--yes")
    assert answer.code == 1
    look = "list-orders" if words == BUY else "history"
    expected = f"no new order is listed; look before you repeat it: codecatch {words[0]} {look}\n"
    assert answer.err.endswith(expected)
    assert known(store) == {}
    assert len(api.requests("POST")) == 1


@on_sqlite
def test_the_look_fails_too(run: Run, api: HttpServer) -> None:
    """Then nothing is known, and the person is told what to type."""
    api.on("POST", f"{ORDERS}/ord_1/confirm", cut=True)
    api.on("GET", f"{ORDERS}/ord_1", status=502)
    answer = run("virtualsms", "confirm-order", "ord_1", "--yes")
    assert (answer.code, answer.out) == (1, "")
    assert answer.err.endswith(
        "what became of it is not known (virtualsms get_order: 502): look before you repeat it: "
        "codecatch virtualsms get-order ord_1\n"
    )
    assert len(api.requests()) == 2


@on_sqlite
def test_the_look_is_paid_for_as_well(store: Store, run: Run, api: HttpServer) -> None:
    """Without budget for it the provider is not asked."""
    until = now(store) + timedelta(hours=1)

    def block(_: Request) -> Reply:
        with store.database.transaction() as session:
            session.get_one(Budget, "virtualsms:calls").blocked_until = until
        return Reply(cut=True)

    api.on("POST", ORDERS, handler=block)
    api.on("GET", ORDERS, json=[])
    answer = run(*BUY, "--yes")
    assert answer.code == 1
    assert "what became of it is not known" in answer.err
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
def test_the_order_shows_what_became_of_it(  # noqa: PLR0917 - the example's own
    store: Store, run: Run, api: HttpServer, verb: str, said: str, code: int
) -> None:
    """Done is done, and recorded so; anything else is shown, and no success."""
    api.on("POST", f"{ORDERS}/ord_1/{verb}", cut=True)
    api.on("GET", f"{ORDERS}/ord_1", json={**MADE, "status": said})
    name = {"release": "release-rental"}.get(verb, f"{verb}-order")
    answer = run("virtualsms", name, "ord_1", "--yes")
    assert answer.code == code
    assert f"status:       {said}" in answer.out
    assert ("done, as the order shows" in answer.err) is (code == 0)
    assert ("look before you repeat it" in answer.err) is (code == 1)
    assert known(store) == ({"ord_1": said} if code == 0 else {})
    assert len(api.requests("POST")) == 1
    answer.hides(PHONE)


@pytest.mark.parametrize(("phone", "code"), [(OTHER_PHONE, 0), (PHONE, 1)])
def test_another_number_tells_a_swap(
    store: Store, run: Run, api: HttpServer, phone: str, code: int
) -> None:
    """The number that is known says whether the order has been swapped."""
    api.on("POST", ORDERS, json=MADE)
    assert run(*BUY, "--yes").code == 0
    api.on("POST", f"{ORDERS}/ord_1/swap", status=504)
    api.on("GET", f"{ORDERS}/ord_1", json={**MADE, "phone_number": phone, "status": "waiting"})
    answer = run("virtualsms", "swap-order", "ord_1", "--yes")
    assert answer.code == code
    assert only(store, Order).phone_digest == store.vault.digest("phone", phone)
    swaps = [step for step in everything(store, OrderTransition) if "swap" in step.kind]
    assert len(swaps) == 1 - code


@on_sqlite
def test_a_swap_of_an_unknown_order_cannot_be_told(run: Run, api: HttpServer) -> None:
    """Without a number to compare with, the order is shown and nothing claimed."""
    api.on("POST", f"{ORDERS}/ord_1/swap", cut=True)
    api.on("GET", f"{ORDERS}/ord_1", json={**MADE, "status": "waiting"})
    answer = run("virtualsms", "swap-order", "ord_1", "--yes")
    assert answer.code == 1
    assert "that is how the order stands now" in answer.err


@on_sqlite
def test_a_cancelled_activation_is_asked_about(store: Store, run: Run, api: HttpServer) -> None:
    """`check` is the look of DaisySIM's cancel."""
    api.on("POST", "/api/v1/virtual/cancel/4711", cut=True)
    api.on("GET", "/api/v1/virtual/check/4711", json={"data": {"status": "Cancelled"}})
    assert run("daisysim", "cancel", "4711", "--yes").code == 0
    assert known(store) == {"4711": "cancelled"}


@on_sqlite
def test_a_call_that_only_looks_is_not_looked_at(run: Run, api: HttpServer) -> None:
    """Its outcome may be unknown too, and it can be asked again."""
    api.on("GET", f"{ORDERS}/ord_1", cut=True)
    answer = run("virtualsms", "get-order", "ord_1")
    assert answer.code == 1
    assert answer.err.endswith(": try again later\n")
    assert len(api.requests()) == 1
