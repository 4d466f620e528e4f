"""Reading a provider's newest orders back to the newest one of the last pass."""

from __future__ import annotations

from datetime import timedelta

import pytest
from structlog.testing import capture_logs

from receiver import queue
from receiver.inbox.store import InboxEvent
from tests.support import webhooks
from tests.support.http_server import Reply, Request
from tests.support.webhooks import ACTIVATION, CODE, ORDER, UK_PHONE
from tests.worker.reconciliation.reconciling import (
    HISTORY_PATH,
    MINUTE,
    ORDERS_PATH,
    activation,
    ask,
    buy,
    history,
    listing,
    plan,
    poll_row,
    reconciled,
    soon,
    virtualsms_order,
)
from tests.worker.support import (
    CHECK_PATH,
    ORDER_PATH,
    SECOND,
    World,
    all_rows,
    change,
    code_of,
    deliveries,
    handle,
    make_due,
    now,
    on_sqlite,
    only_row,
    reload,
    woken,
)
from worker.reconciliation import history as past_orders
from worker.reconciliation.reconcile import reconcile
from worker.runtime.runtime import Runtime
from worker.schema.models import Code, Order, Reconciliation


def pages(world: World, *lines: dict[str, object], each: int = 2) -> None:
    """Set DaisySIM's history: newest first, ``each`` lines per page."""

    def answer(request: Request) -> Reply:
        first = (int(request.query["page"]) - 1) * each
        return Reply(json=history(*lines[first : first + each]))

    world.api.on("GET", HISTORY_PATH, handler=answer)


def requested_pages(world: World, path: str = HISTORY_PATH) -> list[dict[str, str]]:
    """The query parameters of the requested pages."""
    return [request.query for request in world.api.requests("GET", path)]


def read_back(runtime: Runtime) -> Reconciliation:
    """Make one whole pass; return the row afterwards."""
    plan(runtime)
    row = ask(runtime, listing(runtime))
    while row.head is not None:
        reconcile(runtime, [row.id])
        row = reload(runtime, row)
    return row


def test_a_code_of_an_unknown_order_is_delivered(world: World, runtime: Runtime) -> None:
    """By the first pass, which is due as soon as there is a row."""
    pages(world, activation())
    plan(runtime)
    woken(world, queue.RECONCILE, [listing(runtime).id])
    row = read_back(runtime)
    reconciled(runtime)

    event = only_row(runtime, InboxEvent)
    assert (event.source, event.state) == ("reconciled", "handled")
    assert code_of(runtime, ACTIVATION) == [CODE]
    code, order = only_row(runtime, Code), only_row(runtime, Order)
    assert (code.state, code.verified, code.service) == ("ready", True, "WhatsApp")
    assert order.status == "confirmed"
    assert len(deliveries(runtime)) == 1
    assert (row.place, row.page, row.failures) == (ACTIVATION, 1, 0)
    assert row.answered_at is not None
    assert requested_pages(world)[0] == {"page": "1", "per_page": "100"}


@on_sqlite
def test_a_bad_row_does_not_end_a_pass(world: World, runtime: Runtime) -> None:
    """The good rows count, and the log says how many others there were."""
    lines = [{"status": "completed"}, "row", activation()]
    world.api.on("GET", HISTORY_PATH, json={"success": True, "data": {"history": lines}})
    with capture_logs() as logged:
        row = read_back(runtime)
    reconciled(runtime)

    assert code_of(runtime, ACTIVATION) == [CODE]
    assert (row.place, row.failures) == (ACTIVATION, 0)
    skipped = [line for line in logged if line["event"] == "reconciliation.rows_skipped"]
    assert {(line["provider"], line["skipped"]) for line in skipped} == {("daisysim", 2)}


def test_reading_the_same_page_again_changes_nothing(world: World, runtime: Runtime) -> None:
    """One event, one code, one delivery, whether the event was handled meanwhile or not."""
    pages(world, activation())
    for _ in range(2):
        change(runtime, read_back(runtime), place=None)
    reconciled(runtime)
    for _ in range(2):
        change(runtime, read_back(runtime), place=None)
    reconciled(runtime)

    assert len(all_rows(runtime, InboxEvent)) == 1
    assert len(deliveries(runtime)) == 1


def test_the_history_releases_a_held_code(world: World, runtime: Runtime) -> None:
    """Without a verification call: the history has a separate budget; later it adds nothing."""
    handle(runtime, webhooks.daisysim())
    pages(world, activation())
    for _ in range(2):
        change(runtime, read_back(runtime), place=None)
        reconciled(runtime)

        assert (only_row(runtime, Code).state, only_row(runtime, Code).verified) == ("ready", True)
        assert len(all_rows(runtime, InboxEvent)) == 2
        assert len(deliveries(runtime)) == 1
    assert world.api.requests("GET", CHECK_PATH) == []


def test_a_pass_stops_at_the_newest_order_of_the_last_pass(world: World, runtime: Runtime) -> None:
    """Older orders are not read again."""
    lines = [activation(str(number)) for number in range(9, 0, -1)]
    pages(world, *lines[4:])
    assert read_back(runtime).place == "5"
    assert [page["page"] for page in requested_pages(world)] == ["1", "2", "3", "4"]

    world.api.forget()
    pages(world, *lines)
    row = read_back(runtime)
    assert [page["page"] for page in requested_pages(world)] == ["1", "2", "3"]
    assert row.place == "9"
    reconciled(runtime)
    assert {code.order_id for code in all_rows(runtime, Code)} == set("123456789")

    world.api.forget()
    read_back(runtime)
    assert len(requested_pages(world)) == 1


@on_sqlite
def test_an_interrupted_pass_continues(world: World, runtime: Runtime) -> None:
    """A page that fails is requested again; only a whole pass changes ``place``."""
    pages(world, *(activation(str(number)) for number in range(5, 0, -1)))
    plan(runtime)
    row = ask(runtime, listing(runtime))
    assert (row.page, row.head, row.place) == (2, "5", None)
    assert soon(runtime, row, timedelta(0))
    world.api.once("GET", HISTORY_PATH, Reply(status=500))
    row = ask(runtime, row)
    assert (row.page, row.head, row.failures) == (2, "5", 1)
    while row.head is not None:
        row = ask(runtime, row)

    assert [page["page"] for page in requested_pages(world)] == ["1", "2", "2", "3", "4"]
    assert (row.place, row.page) == ("5", 1)


@on_sqlite
def test_the_first_pass_skips_old_codes(world: World, runtime: Runtime) -> None:
    """A code of yesterday, and one of unknown age, are not delivered, now or later."""
    old = now(runtime) - timedelta(hours=25)
    ageless = activation("2") | {"created_at": None}
    pages(world, activation("3"), ageless, activation("1", made_at=old), each=3)
    for _ in range(2):
        read_back(runtime)
    reconciled(runtime)

    assert [code.order_id for code in all_rows(runtime, Code)] == ["3"]


@on_sqlite
def test_the_first_pass_does_not_read_the_whole_history(world: World, runtime: Runtime) -> None:
    """It stops one hour before its row was created."""
    old = now(runtime) - timedelta(hours=2)
    pages(world, activation("9"), *(activation(str(n), made_at=old) for n in range(8, 0, -1)))
    read_back(runtime)
    assert len(requested_pages(world)) == 1


@on_sqlite
def test_codes_of_an_outage_of_days_are_found(world: World, runtime: Runtime) -> None:
    """Once a pass has been made, the next one goes back to it, whatever the age."""
    pages(world, activation("1", made_at=now(runtime) - timedelta(days=4)))
    row = read_back(runtime)
    change(runtime, row, place="1", created_at=now(runtime) - timedelta(days=5))
    missed = (activation(str(n), made_at=now(runtime) - timedelta(days=2)) for n in (3, 2))
    pages(world, *missed, activation("1", made_at=now(runtime) - timedelta(days=4)))
    read_back(runtime)
    reconciled(runtime)
    assert sorted(code.order_id for code in all_rows(runtime, Code)) == ["2", "3"]


@on_sqlite
@pytest.mark.parametrize("kind", ["endless", "the same"])
def test_an_endless_history_ends_the_pass(
    world: World, runtime: Runtime, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether pages never end, or every page is the same."""
    monkeypatch.setattr(past_orders, "MAX_PAGES", 5)

    def answer(request: Request) -> Reply:
        page = int(request.query["page"]) if kind == "endless" else 0
        return Reply(json=history(activation(f"{page}", status="cancelled")))

    world.api.on("GET", HISTORY_PATH, handler=answer)
    row = read_back(runtime)
    assert row.head is None
    assert len(requested_pages(world)) == (5 if kind == "endless" else 2)


@on_sqlite
def test_an_unknown_open_order_is_polled(world: World, runtime: Runtime) -> None:
    """It becomes known, and gets a row."""
    pages(world, activation(status="waiting"))
    read_back(runtime)
    order = only_row(runtime, Order)
    assert (order.status, order.service) == ("waiting", "WhatsApp")
    assert order.phone_digest is not None
    plan(runtime)
    assert poll_row(runtime).deadline == order.created_at + 20 * MINUTE


@on_sqlite
@pytest.mark.parametrize(
    ("known", "reported", "status"),
    [
        (True, "cancelled", "cancelled"),
        (True, "completed", "confirmed"),
        (False, "completed", "confirmed"),
        # There is nothing to record or deliver.
        (False, "cancelled", None),
    ],
)
def test_a_new_state_of_an_order_is_recorded(
    world: World, runtime: Runtime, known: bool, reported: str, status: str | None
) -> None:
    """Wherever in the page the order is."""
    if known:
        buy(runtime)
    pages(world, activation("9"), activation(status=reported), each=9)
    plan(runtime)
    change(runtime, listing(runtime), place="9" if known else None)
    read_back(runtime)
    reconciled(runtime)

    order = next((row for row in all_rows(runtime, Order) if row.order_id == ACTIVATION), None)
    assert (order and order.status) == status
    assert code_of(runtime, ACTIVATION) == ([CODE] if status == "confirmed" else [])
    plan(runtime)
    if known:
        assert poll_row(runtime).wake_at is None


def test_a_page_replaces_single_polls(world: World, virtual: Runtime) -> None:
    """With many open orders, the list is read at their interval, and none is polled singly."""
    ids = [f"ord_{number}" for number in range(4)]
    world.api.on("GET", ORDERS_PATH, json={"orders": [virtualsms_order(each) for each in ids]})
    for each in ids:
        buy(virtual, each, provider="virtualsms", phone=UK_PHONE)
    plan(virtual)
    row = ask(virtual, listing(virtual))
    assert soon(virtual, row, MINUTE)

    after = now(virtual) + MINUTE
    for each in ids:
        watching = poll_row(virtual, each)
        assert watching.next_attempt_at > after
        reconcile(virtual, [watching.id])
    assert world.api.requests("GET", ORDER_PATH) == []
    assert len(requested_pages(world, ORDERS_PATH)) == 1


@on_sqlite
def test_many_open_orders_bring_the_next_pass_forward(world: World, virtual: Runtime) -> None:
    """With few open orders it has a long interval."""
    world.api.on("GET", ORDERS_PATH, json={"orders": []})
    row = read_back(virtual)
    assert not soon(virtual, row, 9 * MINUTE)
    for number in range(3):
        buy(virtual, f"ord_{number}", provider="virtualsms")
    for _ in range(2):  # the rows of the orders are made first
        plan(virtual)
    assert soon(virtual, reload(virtual, row), MINUTE)


@on_sqlite
def test_a_listed_order_without_its_code_is_polled(world: World, virtual: Runtime) -> None:
    """A received order whose code is missing stays open until the code is there."""
    listed = {"orders": [virtualsms_order(status="received")]}
    world.api.on("GET", ORDERS_PATH, json=listed)
    read_back(virtual)
    assert only_row(virtual, Order).status == "waiting"
    assert all_rows(virtual, InboxEvent) == []
    plan(virtual)
    world.api.on("GET", ORDER_PATH, json=virtualsms_order(status="received", code=CODE))
    polling = poll_row(virtual, ORDER)
    make_due(virtual, listing(virtual))
    ask(virtual, listing(virtual))
    assert reload(virtual, polling).next_attempt_at == polling.next_attempt_at
    ask(virtual, polling)
    reconciled(virtual)
    assert code_of(virtual, ORDER) == [CODE]


@on_sqlite
def test_a_page_does_not_postpone_a_poll_past_the_end(world: World, runtime: Runtime) -> None:
    """An order that a page reports as waiting is still polled at its end."""
    buy(runtime, left=30 * SECOND)
    plan(runtime)
    before = poll_row(runtime).next_attempt_at
    change(runtime, poll_row(runtime), deadline=now(runtime) + 10 * SECOND)
    pages(world, activation(status="waiting", created_at=webhooks.iso(now(runtime) - 19 * MINUTE)))
    read_back(runtime)
    assert poll_row(runtime).next_attempt_at == before
