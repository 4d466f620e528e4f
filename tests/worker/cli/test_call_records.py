"""What the providers' calls, made as commands, leave recorded of an order."""

from __future__ import annotations

import pytest

from receiver.inbox.store import InboxEvent
from tests.support.http_server import HttpServer
from tests.support.stores import Store
from tests.support.webhooks import CODE, daisysim, virtualsms_v1, virtualsms_v2
from tests.worker.cli.apis import BUY, MADE, ORDERS, OTHER_PHONE, PHONE
from tests.worker.cli.conftest import Run
from tests.worker.support import (
    World,
    everything,
    handle,
    on_sqlite,
    only,
)
from worker.handling import handle as handling
from worker.schema.models import Code, Order, OrderNumber, OrderTransition


def number(store: Store, order: Order) -> str | None:
    """The order's plain number."""
    return store.vault.open_text(
        order.phone_number, table="orders", column="phone_number", row=order.id
    )


def steps(store: Store) -> list[tuple[str, str]]:
    """The recorded transitions: where each came from, and the state it led to."""
    return [(step.kind, step.to_status) for step in everything(store, OrderTransition)]


@pytest.mark.usefixtures("selling")
def test_from_nothing_to_a_code(world: World, run: Run) -> None:
    """The id that a purchase prints is what `wait` wants, and the order is known at once."""
    made = world.connect(DAISYSIM_VERIFY_BACK="off")
    bought = run("daisysim", "purchase", "6", "wa", "1.1400", "--yes")
    assert "codecatch: the code: codecatch wait 4711 --provider daisysim\n" in bought.err
    assert run("wait", "4711", "--timeout", "0").code == 3
    (listed,) = run("orders", "list", "--json").json
    assert (listed["order_id"], listed["status"], listed["price"]) == ("4711", "waiting", "1.1400")
    alone = run("daisysim", "purchase", "6", "wa", "1.1400", "--yes", "--id")
    assert (alone.code, alone.out, alone.err) == (0, "4711\n", "")
    handle(made, daisysim(activation="4711"))
    assert run("wait", alone.out.strip(), "--timeout", "0").out == f"{CODE}\n"


@pytest.mark.usefixtures("selling")
def test_a_bought_order_is_recorded(store: Store, run: Run) -> None:
    """Everything that is known of it, the number sealed, and where it came from."""
    assert run(*BUY, "--yes").code == 0
    order = only(store, Order)
    assert (order.provider, order.order_id, order.status) == ("virtualsms", "ord_1", "waiting")
    assert (order.service, order.country, order.price) == ("wa", "GB", "0.1800")
    assert order.expires_at is not None
    assert order.expires_at.isoformat() == "2026-06-11T09:34:27+00:00"
    assert number(store, order) == PHONE
    assert order.phone_digest == store.vault.digest("phone", PHONE)
    assert PHONE.encode() not in (order.phone_number or b"")
    assert steps(store) == [("command: create_order", "waiting")]


@pytest.mark.usefixtures("selling")
def test_a_daisysim_order_is_recorded(store: Store, run: Run) -> None:
    """The service has the name that was given, which is the one its webhook uses."""
    words = ("purchase", "6", "wa", "1.1400", "--service-name", "WhatsApp", "--yes")
    assert run("daisysim", *words).code == 0
    order = only(store, Order)
    assert (order.provider, order.order_id, order.status) == ("daisysim", "4711", "waiting")
    assert (order.service, order.country, order.price) == ("WhatsApp", "6", "1.1400")


@pytest.mark.usefixtures("selling")
def test_a_webhook_that_came_first_is_not_overwritten(world: World, store: Store, run: Run) -> None:
    """The state and the code stay; the price and the expiry are added."""
    handle(world.connect(), virtualsms_v2(order="ord_1", service="telegram"))
    before = only(store, Order)
    assert run(*BUY, "--yes").code == 0
    order = only(store, Order)
    assert (order.id, order.status, order.service) == (before.id, "received", "telegram")
    assert order.price == "0.1800"
    assert steps(store) == [("reported", "received")]
    assert run("wait", "ord_1", "--timeout", "0").out == f"{CODE}\n"


def test_a_swap_changes_the_number(store: Store, run: Run, selling: HttpServer) -> None:
    """The order waits on the new number, and is found by both."""
    assert run(*BUY, "--yes").code == 0
    selling.on("POST", f"{ORDERS}/ord_1/swap", json={"phone_number": OTHER_PHONE})
    assert run("virtualsms", "swap-order", "ord_1", "--yes").code == 0
    order = only(store, Order)
    assert (order.status, number(store, order)) == ("waiting", OTHER_PHONE)
    assert len(everything(store, OrderNumber)) == 2
    assert steps(store)[1] == ("command: swap_order", "waiting")
    for phone in (PHONE, OTHER_PHONE):
        assert len(run("orders", "list", "--phone", phone, "--json").json) == 1


def test_a_late_webhook_of_the_purchase_does_not_undo_a_swap(
    world: World, store: Store, run: Run, selling: HttpServer
) -> None:
    """A number that no swap reported gives way to a swap's, whichever comes last."""
    selling.on("POST", f"{ORDERS}/ord_1/swap", json={"phone_number": OTHER_PHONE})
    assert run("virtualsms", "swap-order", "ord_1", "--yes").code == 0
    handle(world.connect(), virtualsms_v1(order="ord_1", event="sms.received", phone=PHONE))
    order = only(store, Order)
    assert (order.status, number(store, order)) == ("received", OTHER_PHONE)


@pytest.mark.parametrize(
    "done",
    [
        (("virtualsms", "cancel-order", "ord_1"), f"{ORDERS}/ord_1/cancel", "cancelled"),
        (("virtualsms", "confirm-order", "ord_1"), f"{ORDERS}/ord_1/confirm", "confirmed"),
        (("daisysim", "cancel", "ord_1"), "/api/v1/virtual/cancel/ord_1", "cancelled"),
    ],
)
def test_what_was_done_to_an_order_is_recorded(
    store: Store, run: Run, api: HttpServer, done: tuple[tuple[str, ...], str, str]
) -> None:
    """A success says by itself in which state the order is."""
    words, path, status = done
    api.on("POST", path, json={"data": {"refund": 1}})
    assert run(*words, "--yes").code == 0
    order = only(store, Order)
    assert order.status == status
    assert (order.confirmed_at is not None) is (status == "confirmed")
    assert steps(store) == [(f"command: {words[1].replace('-', '_')}", status)]


@pytest.mark.parametrize(
    ("said", "status"), [("expired", "expired"), ("cancelled", "cancelled"), ("Odd", "waiting")]
)
def test_a_look_adds_to_a_known_order(
    store: Store, run: Run, selling: HttpServer, said: str, status: str
) -> None:
    """What the provider says of it now is recorded as seen by that call."""
    assert run(*BUY, "--yes").code == 0
    later = {"status": said, "expires_at": "2026-06-11T10:34:27Z"}
    selling.on("GET", f"{ORDERS}/ord_1", json=later)
    assert run("virtualsms", "get-order", "ord_1").code == 0
    order = only(store, Order)
    assert order.status == status
    assert order.expires_at is not None
    assert order.expires_at.hour == 10
    seen = [] if status == "waiting" else [("command: get_order", status)]
    assert steps(store)[1:] == seen


@on_sqlite
def test_a_look_makes_no_order(store: Store, run: Run, api: HttpServer) -> None:
    """Orders that others bought with the key are none of this installation's."""
    api.on("GET", f"{ORDERS}/ord_1", json={**MADE, "status": "waiting"})
    assert run("virtualsms", "get-order", "ord_1").code == 0
    assert everything(store, Order) == []


def test_a_code_without_its_webhook_is_kept(
    world: World, store: Store, run: Run, selling: HttpServer
) -> None:
    """Whoever asks by hand has it from then on; its webhook is linked to it when it comes."""
    made = world.connect()
    done = {"status": "Completed", "code": CODE, "phone_number": PHONE}
    selling.on("GET", "/api/v1/virtual/check/4711", json={"data": done})
    assert run("daisysim", "purchase", "6", "wa", "1.14", "--yes").code == 0
    for _ in range(2):
        checked = run("daisysim", "check", "4711", "--reveal", "--json")
        assert checked.json["code"] == CODE
    assert steps(store)[1:] == [("command: check", "confirmed")]
    event = only(store, InboxEvent)
    assert (event.provider, event.source) == ("daisysim", "reconciled")
    handling.handle(made, [event.id])
    assert run("wait", "4711", "--timeout", "0").out == f"{CODE}\n"
    handle(made, daisysim(activation="4711"))
    assert only(store, Code).event_id == event.id
    assert run("daisysim", "check", "4711").code == 0
    assert len(everything(store, InboxEvent)) == 2


def test_an_order_whose_code_is_not_told_stays_open(
    store: Store, run: Run, selling: HttpServer
) -> None:
    """Whoever looks for missing codes must find it."""
    assert run(*BUY, "--yes").code == 0
    selling.on("GET", f"{ORDERS}/ord_1", json={"status": "received"})
    assert run("virtualsms", "get-order", "ord_1").code == 0
    assert only(store, Order).status == "waiting"
    assert everything(store, InboxEvent) == []


def test_another_number_was_swapped(store: Store, run: Run, selling: HttpServer) -> None:
    """A look that shows it counts as the swap that nobody reported."""
    assert run(*BUY, "--yes").code == 0
    selling.on("GET", f"{ORDERS}/ord_1", json={"phone_number": OTHER_PHONE, "status": "waiting"})
    assert run("virtualsms", "get-order", "ord_1").code == 0
    assert number(store, only(store, Order)) == OTHER_PHONE
    assert steps(store)[1:] == [("swapped", "waiting")]
