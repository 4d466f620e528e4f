"""Reading a provider's newest orders back to the last one known."""

from __future__ import annotations

from datetime import timedelta

import pytest

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
    reconciled,
    soon,
    told,
    virtualsms_order,
    watch,
)
from tests.worker.support import (
    CHECK_PATH,
    ORDER_PATH,
    SECOND,
    World,
    again,
    at_once,
    change,
    code_of,
    everything,
    handle,
    make_due,
    now,
    on_sqlite,
    only,
    woken,
)
from worker.reconciliation import history as past_orders
from worker.reconciliation import reconcile as reconciling
from worker.runtime.runtime import Runtime
from worker.schema.models import Code, Order, Reconciliation


@pytest.fixture
def made(world: World) -> Runtime:
    """A worker that asks DaisySIM and tells Slack."""
    return world.connect(daisysim=True, slack=True)


@pytest.fixture
def virtual(world: World) -> Runtime:
    """A worker that asks VirtualSMS."""
    return world.connect(virtualsms=True)


def pages(world: World, *lines: dict[str, object], each: int = 2) -> None:
    """Let DaisySIM's history be these lines, newest first, so many to a page."""

    def answer(request: Request) -> Reply:
        first = (int(request.query["page"]) - 1) * each
        return Reply(json=history(*lines[first : first + each]))

    world.api.on("GET", HISTORY_PATH, handler=answer)


def asked(world: World, path: str = HISTORY_PATH) -> list[dict[str, str]]:
    """The pages that were asked for."""
    return [request.query for request in world.api.requests("GET", path)]


def read_back(made: Runtime) -> Reconciliation:
    """Make one whole pass; the row afterwards."""
    plan(made)
    row = ask(made, listing(made))
    while row.head is not None:
        reconciling.reconcile(made, [row.id])
        row = again(made, row)
    return row


def test_a_code_of_an_order_that_nobody_knew_is_told(world: World, made: Runtime) -> None:
    """With its first pass, which is due as soon as there is a row."""
    pages(world, activation())
    plan(made)
    woken(world, queue.RECONCILE, [listing(made).id])
    row = read_back(made)
    reconciled(made)

    event = only(made, InboxEvent)
    assert (event.source, event.state) == ("reconciled", "handled")
    assert code_of(made, ACTIVATION) == [CODE]
    code, order = only(made, Code), only(made, Order)
    assert (code.state, code.verified, code.service) == ("ready", True, "WhatsApp")
    assert order.status == "confirmed"
    assert len(told(made)) == 1
    assert (row.place, row.page, row.failures) == (ACTIVATION, 1, 0)
    assert row.answered_at is not None
    assert asked(world)[0] == {"page": "1", "per_page": "100"}


def test_reading_the_same_again_changes_nothing(world: World, made: Runtime) -> None:
    """One event, one code, one message, whether it was handled meanwhile or not."""
    pages(world, activation())
    for _ in range(2):
        change(made, read_back(made), place=None)
    reconciled(made)
    for _ in range(2):
        change(made, read_back(made), place=None)
    reconciled(made)

    assert len(everything(made, InboxEvent)) == 1
    assert len(told(made)) == 1


@on_sqlite
def test_a_webhook_and_the_history_tell_once(world: World, made: Runtime) -> None:
    """A code that is known and told is no news."""
    handle(made, webhooks.daisysim())
    change(made, only(made, Code), state="ready", verified=True)
    pages(world, activation())
    read_back(made)

    assert len(everything(made, InboxEvent)) == 1


def test_a_held_code_is_told_by_the_history(world: World, made: Runtime) -> None:
    """Without a question about it: the history has a budget of its own."""
    handle(made, webhooks.daisysim())
    pages(world, activation())
    read_back(made)
    reconciled(made)

    assert (only(made, Code).state, only(made, Code).verified) == ("ready", True)
    assert len(told(made)) == 1
    assert world.api.requests("GET", CHECK_PATH) == []


def test_a_pass_stops_at_the_place_it_knows(world: World, made: Runtime) -> None:
    """The newest order of the last whole pass; what lies behind it is not read again."""
    lines = [activation(str(number)) for number in range(9, 0, -1)]
    pages(world, *lines[4:])
    assert read_back(made).place == "5"
    assert [page["page"] for page in asked(world)] == ["1", "2", "3", "4"]

    world.api.forget()
    pages(world, *lines)
    row = read_back(made)
    assert [page["page"] for page in asked(world)] == ["1", "2", "3"]
    assert row.place == "9"
    reconciled(made)
    assert {code.order_id for code in everything(made, Code)} == set("123456789")

    world.api.forget()
    read_back(made)
    assert len(asked(world)) == 1


@on_sqlite
def test_a_pass_goes_on_where_it_was(world: World, made: Runtime) -> None:
    """A page that fails is asked for again, and the place is moved only by a whole pass."""
    pages(world, *(activation(str(number)) for number in range(5, 0, -1)))
    plan(made)
    row = ask(made, listing(made))
    assert (row.page, row.head, row.place) == (2, "5", None)
    assert soon(made, row, timedelta(0))
    world.api.once("GET", HISTORY_PATH, Reply(status=500))
    row = ask(made, row)
    assert (row.page, row.head, row.failures) == (2, "5", 1)
    while row.head is not None:
        row = ask(made, row)

    assert [page["page"] for page in asked(world)] == ["1", "2", "2", "3", "4"]
    assert (row.place, row.page) == ("5", 1)


@on_sqlite
def test_the_first_pass_leaves_what_is_old(world: World, made: Runtime) -> None:
    """A code of yesterday, and one of unknown age, are told to nobody, now or later."""
    old = now(made) - timedelta(hours=25)
    ageless = activation("2") | {"created_at": None}
    pages(world, activation("3"), ageless, activation("1", made_at=old), each=3)
    for _ in range(2):
        read_back(made)
    reconciled(made)

    assert [code.order_id for code in everything(made, Code)] == ["3"]


@on_sqlite
def test_a_pass_does_not_read_all_that_ever_was(world: World, made: Runtime) -> None:
    """It stops behind the last hour before there was anything to reconcile."""
    old = now(made) - timedelta(hours=2)
    pages(world, activation("9"), *(activation(str(n), made_at=old) for n in range(8, 0, -1)))
    read_back(made)
    assert len(asked(world)) == 1


@on_sqlite
def test_an_outage_of_days_is_made_good(world: World, made: Runtime) -> None:
    """Once there is a place to go back to, age does not matter."""
    pages(world, activation("1", made_at=now(made) - timedelta(days=4)))
    row = read_back(made)
    change(made, row, place="1", created_at=now(made) - timedelta(days=5))
    missed = (activation(str(n), made_at=now(made) - timedelta(days=2)) for n in (3, 2))
    pages(world, *missed, activation("1", made_at=now(made) - timedelta(days=4)))
    read_back(made)
    reconciled(made)
    assert sorted(code.order_id for code in everything(made, Code)) == ["2", "3"]


@on_sqlite
@pytest.mark.parametrize("kind", ["endless", "the same"])
def test_a_history_without_an_end_is_left(
    world: World, made: Runtime, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Be it that it never ends, or that the provider gives one page for all."""
    monkeypatch.setattr(past_orders, "MOST_PAGES", 5)

    def answer(request: Request) -> Reply:
        page = int(request.query["page"]) if kind == "endless" else 0
        return Reply(json=history(activation(f"{page}", status="cancelled")))

    world.api.on("GET", HISTORY_PATH, handler=answer)
    row = read_back(made)
    assert row.head is None
    assert len(asked(world)) == (5 if kind == "endless" else 2)


@on_sqlite
def test_an_open_order_of_the_history_is_watched(world: World, made: Runtime) -> None:
    """Nobody told us of it; from now on it is asked for."""
    pages(world, activation(status="waiting"))
    read_back(made)
    order = only(made, Order)
    assert (order.status, order.service) == ("waiting", "WhatsApp")
    assert order.phone_digest is not None
    plan(made)
    assert watch(made).deadline == order.created_at + 20 * MINUTE


@on_sqlite
@pytest.mark.parametrize("status", ["cancelled", "completed"])
def test_what_becomes_of_a_known_order_is_recorded(
    world: World, made: Runtime, status: str
) -> None:
    """Wherever in the page it stands."""
    buy(made)
    pages(world, activation("9"), activation(status=status), each=9)
    plan(made)
    change(made, listing(made), place="9")
    read_back(made)
    reconciled(made)

    expected = {"cancelled": "cancelled", "completed": "confirmed"}[status]
    (order,) = (each for each in everything(made, Order) if each.order_id == ACTIVATION)
    assert order.status == expected
    assert code_of(made, ACTIVATION) == ([CODE] if status == "completed" else [])
    plan(made)
    assert watch(made).wake_at is None


@on_sqlite
def test_an_order_that_was_cancelled_before_we_knew_it_is_none_of_ours(
    world: World, made: Runtime
) -> None:
    """There is nothing to tell anybody."""
    pages(world, activation(status="cancelled"))
    read_back(made)
    assert everything(made, Order) == []


def test_two_processes_read_a_page_once(world: World, made: Runtime) -> None:
    """The others leave it to whoever has it in hand."""
    world.api.on("GET", HISTORY_PATH, json=history(activation()), hang=0.3)
    plan(made)
    row = listing(made)
    at_once([lambda: reconciling.reconcile(made, [row.id])] * 5)
    assert len(asked(world)) == 1


def test_a_page_answers_for_many_orders(world: World, virtual: Runtime) -> None:
    """With three open, the list is read as often as an order would be asked for, and none is."""
    ids = [f"ord_{number}" for number in range(4)]
    world.api.on("GET", ORDERS_PATH, json={"orders": [virtualsms_order(each) for each in ids]})
    for each in ids:
        buy(virtual, each, provider="virtualsms", phone=UK_PHONE)
    plan(virtual)
    row = ask(virtual, listing(virtual))
    assert soon(virtual, row, MINUTE)

    after = now(virtual) + MINUTE
    for each in ids:
        watching = watch(virtual, each)
        assert watching.next_attempt_at > after
        reconciling.reconcile(virtual, [watching.id])
    assert world.api.requests("GET", ORDER_PATH) == []
    assert len(asked(world, ORDERS_PATH)) == 1


@on_sqlite
def test_a_pass_is_brought_forward_by_many_open_orders(world: World, virtual: Runtime) -> None:
    """However long it was to wait; with few it is made at leisure."""
    world.api.on("GET", ORDERS_PATH, json={"orders": []})
    row = read_back(virtual)
    assert not soon(virtual, row, 9 * MINUTE)
    for number in range(3):
        buy(virtual, f"ord_{number}", provider="virtualsms")
    for _ in range(2):  # the rows of the orders are made first
        plan(virtual)
    assert soon(virtual, again(virtual, row), MINUTE)


@on_sqlite
def test_a_list_that_leaves_codes_out_leads_to_the_order(world: World, virtual: Runtime) -> None:
    """One that is received, without its code, is asked for until the code is there."""
    listed = {"orders": [virtualsms_order(status="received")]}
    world.api.on("GET", ORDERS_PATH, json=listed)
    read_back(virtual)
    assert only(virtual, Order).status == "waiting"
    assert everything(virtual, InboxEvent) == []
    plan(virtual)
    world.api.on("GET", ORDER_PATH, json=virtualsms_order(status="received", code=CODE))
    asking = watch(virtual, ORDER)
    make_due(virtual, listing(virtual))
    ask(virtual, listing(virtual))
    assert again(virtual, asking).next_attempt_at == asking.next_attempt_at
    ask(virtual, asking)
    reconciled(virtual)
    assert code_of(virtual, ORDER) == [CODE]


@on_sqlite
def test_an_order_is_not_put_off_past_its_end(world: World, made: Runtime) -> None:
    """A page that saw it waiting does not keep the last question from being asked."""
    buy(made, left=30 * SECOND)
    plan(made)
    before = watch(made).next_attempt_at
    change(made, watch(made), deadline=now(made) + 10 * SECOND)
    pages(world, activation(status="waiting", created_at=webhooks.iso(now(made) - 19 * MINUTE)))
    read_back(made)
    assert watch(made).next_attempt_at == before
