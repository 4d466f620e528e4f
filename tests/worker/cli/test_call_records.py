"""What the provider commands record about an order."""

from __future__ import annotations

import pytest

from receiver.inbox.store import InboxEvent
from tests.support.http_server import HttpServer
from tests.support.stores import Store
from tests.support.webhooks import CODE, daisysim, virtualsms_v1, virtualsms_v2
from tests.worker.cli.apis import BUY, MADE, ORDERS, OTHER_PHONE, PHONE
from tests.worker.cli.conftest import Run
from tests.worker.support import World, all_rows, handle, number_of, on_sqlite, only_row
from worker.handling.handle import handle as handle_ids
from worker.schema.models import Code, Order, OrderNumber, OrderTransition


def transitions(store: Store) -> list[tuple[str, str]]:
    """The recorded transitions: kind and resulting status."""
    return [(step.kind, step.to_status) for step in all_rows(store, OrderTransition)]


@pytest.mark.usefixtures("selling_api")
def test_purchase_then_code(world: World, run: Run) -> None:
    """`wait` accepts the id that a purchase prints, and the order is stored at once."""
    runtime = world.connect(DAISYSIM_VERIFY_BACK="off")
    bought = run("daisysim", "purchase", "6", "wa", "1.1400", "--yes")
    assert (
        "codecatch: to wait for the code: codecatch wait 4711 --provider daisysim\n" in bought.err
    )
    assert run("wait", "4711", "--timeout", "0").code == 3
    (listed,) = run("orders", "list", "--json").json
    assert (listed["order_id"], listed["status"], listed["price"]) == ("4711", "waiting", "1.1400")
    alone = run("daisysim", "purchase", "6", "wa", "1.1400", "--yes", "--id")
    assert (alone.code, alone.out, alone.err) == (0, "4711\n", "")
    handle(runtime, daisysim(activation="4711"))
    assert run("wait", alone.out.strip(), "--timeout", "0").out == f"{CODE}\n"


@pytest.mark.usefixtures("selling_api")
def test_a_bought_order_is_recorded(store: Store, run: Run) -> None:
    """All fields are stored, the number is sealed, and the transition names the command."""
    assert run(*BUY, "--yes").code == 0
    order = only_row(store, Order)
    assert (order.provider, order.order_id, order.status) == ("virtualsms", "ord_1", "waiting")
    assert (order.service, order.country, order.price) == ("wa", "GB", "0.1800")
    assert order.expires_at is not None
    assert order.expires_at.isoformat() == "2026-06-11T09:34:27+00:00"
    assert number_of(store, order) == PHONE
    assert order.phone_digest == store.vault.digest("phone", PHONE)
    assert PHONE.encode() not in (order.phone_number or b"")
    assert transitions(store) == [("command: create_order", "waiting")]


@pytest.mark.usefixtures("selling_api")
def test_a_daisysim_order_is_recorded(store: Store, run: Run) -> None:
    """The service is stored under the given name, which is the one in the webhook."""
    words = ("purchase", "6", "wa", "1.1400", "--service-name", "WhatsApp", "--yes")
    assert run("daisysim", *words).code == 0
    order = only_row(store, Order)
    assert (order.provider, order.order_id, order.status) == ("daisysim", "4711", "waiting")
    assert (order.service, order.country, order.price) == ("WhatsApp", "6", "1.1400")
    assert (order.service_alias, order.country_alias) == ("wa", "GB")


@pytest.mark.usefixtures("selling_api")
def test_a_service_has_the_name_of_the_api_and_that_of_the_webhook(world: World, run: Run) -> None:
    """Each of them, in any case or as a glob, finds order, code, event and delivery."""
    runtime = world.connect(DAISYSIM_VERIFY_BACK="off", slack=True)
    run("daisysim", "purchase", "16", "wa", "1.1400", "--yes")
    handle(runtime, daisysim(activation="4711", phone=PHONE, service="WhatsApp"))
    handle(runtime, virtualsms_v2(order="ord_1", service="telegram", country="US"))
    for words in (
        *(("--service", name) for name in ("wa", "WA", "WhatsApp", "whatsapp", "WHATS*", "w?")),
        *(("--country", name) for name in ("16", "gb", "G[A-C]", "1*")),
        ("--service", "wa", "--country", "GB"),
    ):
        for noun in ("orders", "codes"):
            found = run(noun, "list", *words, "--json").json
            assert [row["order_id"] for row in found] == ["4711"], (noun, words)
        for noun in ("events", "deliveries"):
            assert len(run(noun, "list", *words, "--json").json) == 1, (noun, words)
    for words in (
        ("--service", "wa", "--country", "US"),
        ("--service", "wh"),
        ("--country", "[z-a]"),
    ):
        assert run("orders", "list", *words, "--json").json == []
    shown = run("orders", "show", "4711", "--json").json
    assert (shown["service"], shown["service_alias"]) == ("wa", "WhatsApp")
    assert (shown["country"], shown["country_alias"]) == ("16", "GB")


def test_a_purchase_without_a_number_is_recorded(store: Store, run: Run, api: HttpServer) -> None:
    """With the command that asks for the number, whose answer is recorded, too."""
    api.on("POST", "/api/v1/virtual/purchase", json={"success": True, "data": {"id": 4711}})
    bought = run("daisysim", "purchase", "6", "wa", "1.1400", "--yes")
    assert bought.code == 0
    assert "no phone number; to ask for it: codecatch daisysim check 4711\n" in bought.err
    assert "to wait for the code: codecatch wait 4711 --provider daisysim\n" in bought.err
    order = only_row(store, Order)
    assert (order.order_id, order.status, order.phone_number) == ("4711", "waiting", None)
    waiting = {"status": "Waiting", "phone_number": PHONE}
    api.on("GET", "/api/v1/virtual/check/4711", json={"data": waiting})
    assert run("daisysim", "check", "4711").code == 0
    assert number_of(store, only_row(store, Order)) == PHONE


@pytest.mark.usefixtures("selling_api")
def test_a_webhook_that_came_first_is_not_overwritten(world: World, store: Store, run: Run) -> None:
    """State and code stay; price and expiry are added."""
    handle(world.connect(), virtualsms_v2(order="ord_1", service="telegram"))
    before = only_row(store, Order)
    assert run(*BUY, "--yes").code == 0
    order = only_row(store, Order)
    assert (order.id, order.status, order.service) == (before.id, "received", "telegram")
    assert order.price == "0.1800"
    assert transitions(store) == [("reported", "received")]
    assert run("wait", "ord_1", "--timeout", "0").out == f"{CODE}\n"


def test_a_swap_changes_the_number(store: Store, run: Run, selling_api: HttpServer) -> None:
    """The order waits with the new number, and both numbers find it."""
    assert run(*BUY, "--yes").code == 0
    selling_api.on("POST", f"{ORDERS}/ord_1/swap", json={"phone_number": OTHER_PHONE})
    assert run("virtualsms", "swap-order", "ord_1", "--yes").code == 0
    order = only_row(store, Order)
    assert (order.status, number_of(store, order)) == ("waiting", OTHER_PHONE)
    assert len(all_rows(store, OrderNumber)) == 2
    assert transitions(store)[1] == ("command: swap_order", "waiting")
    for phone in (PHONE, OTHER_PHONE):
        assert len(run("orders", "list", "--phone", phone, "--json").json) == 1


def test_a_late_webhook_of_the_purchase_does_not_undo_a_swap(
    world: World, store: Store, run: Run, selling_api: HttpServer
) -> None:
    """The number of a swap takes precedence over the number of the purchase in any order."""
    selling_api.on("POST", f"{ORDERS}/ord_1/swap", json={"phone_number": OTHER_PHONE})
    assert run("virtualsms", "swap-order", "ord_1", "--yes").code == 0
    handle(world.connect(), virtualsms_v1(order="ord_1", event="sms.received", phone=PHONE))
    order = only_row(store, Order)
    assert (order.status, number_of(store, order)) == ("received", OTHER_PHONE)


@pytest.mark.parametrize(
    "done",
    [
        (("virtualsms", "cancel-order", "ord_1"), f"{ORDERS}/ord_1/cancel", "cancelled"),
        (("virtualsms", "confirm-order", "ord_1"), f"{ORDERS}/ord_1/confirm", "confirmed"),
        (("daisysim", "cancel", "ord_1"), "/api/v1/virtual/cancel/ord_1", "cancelled"),
    ],
)
def test_a_successful_call_sets_the_status(
    store: Store, run: Run, api: HttpServer, done: tuple[tuple[str, ...], str, str]
) -> None:
    """The success of a call determines the status of the order."""
    words, path, status = done
    api.on("POST", path, json={"data": {"refund": 1}})
    assert run(*words, "--yes").code == 0
    order = only_row(store, Order)
    assert order.status == status
    assert (order.confirmed_at is not None) is (status == "confirmed")
    assert transitions(store) == [(f"command: {words[1].replace('-', '_')}", status)]


REPORTS: dict[str, tuple[dict[str, str], str, list[tuple[str, str]]]] = {
    "expired": ({"status": "expired"}, "expired", [("command: get_order", "expired")]),
    "cancelled": ({"status": "cancelled"}, "cancelled", [("command: get_order", "cancelled")]),
    "an unknown state": ({"status": "Odd"}, "waiting", []),
    # Reconciliation must still find the code.
    "a code that is not shown": ({"status": "received"}, "waiting", []),
    # The swap that no webhook reported.
    "another number": (
        {"status": "waiting", "phone_number": OTHER_PHONE},
        "waiting",
        [("swapped", "waiting")],
    ),
}


@pytest.mark.parametrize("case", REPORTS)
def test_get_order_updates_a_stored_order(
    store: Store, run: Run, selling_api: HttpServer, case: str
) -> None:
    """The reported status is recorded as a transition of that command."""
    reported, status, steps = REPORTS[case]
    assert run(*BUY, "--yes").code == 0
    later = {"expires_at": "2026-06-11T10:34:27Z", **reported}
    selling_api.on("GET", f"{ORDERS}/ord_1", json=later)
    assert run("virtualsms", "get-order", "ord_1").code == 0
    order = only_row(store, Order)
    assert order.status == status
    assert order.expires_at is not None
    assert order.expires_at.hour == 10
    assert number_of(store, order) == reported.get("phone_number", PHONE)
    assert transitions(store)[1:] == steps
    assert all_rows(store, InboxEvent) == []


@on_sqlite
def test_get_order_stores_no_new_order(store: Store, run: Run, api: HttpServer) -> None:
    """Orders that another installation bought with the same key are not stored."""
    api.on("GET", f"{ORDERS}/ord_1", json={**MADE, "status": "waiting"})
    assert run("virtualsms", "get-order", "ord_1").code == 0
    assert all_rows(store, Order) == []


def test_a_code_from_check_is_stored(
    world: World, store: Store, run: Run, selling_api: HttpServer
) -> None:
    """A code from `check` is stored; its webhook is linked to it later."""
    runtime = world.connect()
    done = {"status": "Completed", "code": CODE, "phone_number": PHONE}
    selling_api.on("GET", "/api/v1/virtual/check/4711", json={"data": done})
    assert run("daisysim", "purchase", "6", "wa", "1.14", "--yes").code == 0
    for _ in range(2):
        checked = run("daisysim", "check", "4711", "--reveal", "--json")
        assert checked.json["code"] == CODE
    assert transitions(store)[1:] == [("command: check", "confirmed")]
    event = only_row(store, InboxEvent)
    assert (event.provider, event.source) == ("daisysim", "reconciled")
    handle_ids(runtime, [event.id])
    assert run("wait", "4711", "--timeout", "0").out == f"{CODE}\n"
    handle(runtime, daisysim(activation="4711"))
    assert only_row(store, Code).event_id == event.id
    assert run("daisysim", "check", "4711").code == 0
    assert len(all_rows(store, InboxEvent)) == 2
