"""``codecatch purge``: erasure of personal data on request."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest

from receiver import clock
from receiver.inbox import store as inbox
from receiver.inbox.spool import Spool
from receiver.inbox.store import InboxEvent, IncomingEvent
from tests.support import webhooks
from tests.support.webhooks import daisysim, signed, virtualsms_v1, virtualsms_v2
from tests.worker.cli.conftest import Run, Terminal
from tests.worker.support import (
    World,
    all_rows,
    deliver,
    fetch,
    handle,
    in_files,
    on_sqlite,
    only_row,
    receive,
    reload,
)
from worker.runtime.runtime import Runtime
from worker.schema.models import Code, Delivery, Order, OrderNumber

CONNECTED: dict[str, bool] = {}

pytestmark = pytest.mark.both_databases

FORMER = "+447700900999"


def test_purge_of_an_order(runtime: Runtime, run: Run) -> None:
    """Its secrets are gone, every command shows null, and other orders stay unchanged."""
    event, _ = handle(runtime, virtualsms_v2(order="ord_1"), virtualsms_v2(order="ord_2"))
    answer = run("purge", "--order", "ord_1", "--yes")
    assert (answer.code, answer.out) == (
        0,
        "purged: 1 code, 1 number and 1 event body of 1 order\n",
    )
    answer.hides(webhooks.CODE, webhooks.UK_PHONE)

    two, one = run("codes", "list", "--json", "--reveal").json
    assert (one["code"], one["text"], one["phone_number"]) == (None, None, None)
    assert (two["code"], two["phone_number"]) == (webhooks.CODE, webhooks.UK_PHONE)
    order = run("orders", "show", "ord_1", "--json", "--reveal").json
    assert (order["phone_number"], order["numbers"]) == (None, [])
    assert order["status"] == "received"
    assert run("events", "show", event, "--json", "--reveal").json["body"] is None
    assert run("wait", "ord_1", "--timeout", "0").code == 3
    assert run("codes", "list", "--phone", webhooks.UK_PHONE, "--json").json == [
        {**two, "code": "48••••", "text": "••••••••", "phone_number": "+4477•••••123"}
    ]


def test_purge_of_a_number(runtime: Runtime, run: Run) -> None:
    """Every order that ever had the number is purged, however the number is written."""
    handle(
        runtime,
        virtualsms_v2(order="ord_1", phone=FORMER),
        virtualsms_v2(event="order.swapped", order="ord_1"),
        virtualsms_v2(order="ord_2", phone=FORMER),
        virtualsms_v2(order="ord_3"),
    )
    answer = run("purge", "--phone", "44 7700 900999", "--yes")
    assert answer.out == "purged: 2 codes, 3 numbers and 3 event bodies of 2 orders\n"
    remaining = {code.order_id for code in all_rows(runtime, Code) if code.code is not None}
    assert remaining == {"ord_3"}
    assert {order.order_id for order in all_rows(runtime, Order) if order.phone_number} == remaining
    assert len(all_rows(runtime, OrderNumber)) == 1


def test_purge_for_one_provider(runtime: Runtime, run: Run) -> None:
    """Two providers may use the same id."""
    handle(runtime, virtualsms_v2(order="4711"), daisysim(activation="4711"))
    run("purge", "--order", "4711", "--provider", "daisysim", "--yes")
    assert [code.provider for code in all_rows(runtime, Code) if code.code] == ["virtualsms"]


@pytest.mark.parametrize("words", [("--order", "ord_9"), ("--phone", FORMER)])
def test_purge_finds_unparsed_events(runtime: Runtime, run: Run, words: tuple[str, str]) -> None:
    """The search reads their bodies, JSON or not, for no order refers to them; others stay."""
    unread = {"number": FORMER, "details": [{"ref": "ord_9"}]}
    spaced = f"{FORMER[:3]} {FORMER[3:6]} {FORMER[6:]}"
    _, *others, _ = receive(
        runtime,
        virtualsms_v2(order="", data=unread),
        virtualsms_v2(order="", data={"details": [{"ref": "ord_8"}]}),
        signed(b"order_id=ord_99&phone_number=%2B447700900111"),
        signed(f'{{"order_id":"ord_9","phone_number":"{spaced}","code":"48'.encode()),
    )
    assert run("purge", *words, "--yes").out == (
        "purged: 0 codes, 0 numbers and 2 event bodies of 0 orders\n"
    )
    remaining = {event.id for event in all_rows(runtime, InboxEvent) if event.body is not None}
    assert remaining == {*others}


@pytest.mark.parametrize(
    "written",
    ["+44 7700 900999", "00447700900999", "07700900999", 447700900999, "tel:+447700900999"],
)
def test_purge_finds_a_number_in_unparsed_events(world: World, run: Run, written: object) -> None:
    """In any spelling, as a JSON number, and in a body that is not JSON."""
    runtime = world.connect()
    found, *_ = receive(
        runtime,
        virtualsms_v2(order="", data={"number": written}),
        virtualsms_v2(order="", data={"number": "+447700900998"}),
    )
    with runtime.database.transaction() as session:
        event = IncomingEvent(
            provider="virtualsms",
            body=f"number={written};x".encode(),
            arrived_at=clock.now(),
            key="k",
        )
        inbox.store_many(session, runtime.vault, [event])
    assert found
    assert run("purge", "--phone", "0044 7700 900999", "--yes").out == (
        "purged: 0 codes, 0 numbers and 2 event bodies of 0 orders\n"
    )


def test_an_old_webhook_restores_nothing(world: World, run: Run) -> None:
    """The same webhook is a duplicate, and a later one does not restore the number."""
    runtime = world.connect(slack=True)
    first = virtualsms_v1(order="ord_1")
    handle(runtime, first)
    run("purge", "--order", "ord_1", "--yes")
    planned = len(all_rows(runtime, Delivery))
    handle(runtime, first, virtualsms_v2(event="order.confirmed", order="ord_1"))

    order = only_row(runtime, Order)
    assert (order.status, order.phone_number, order.phone_digest) == ("confirmed", None, None)
    assert all_rows(runtime, OrderNumber) == []
    assert only_row(runtime, Code).code is None
    assert len(all_rows(runtime, Delivery)) == planned


def test_pending_deliveries_of_a_purged_code(world: World, run: Run) -> None:
    """Nothing is sent; the row has the reason and cannot be retried."""
    runtime = world.connect(slack=True)
    handle(runtime, virtualsms_v1(order="ord_1"))
    row = only_row(runtime, Delivery)
    run("purge", "--order", "ord_1", "--yes")
    deliver(runtime, row)
    assert (reload(runtime, row).state, reload(runtime, row).error) == (
        "dead",
        "its code was purged",
    )
    assert world.sent_to() == []
    assert "purged" in run("deliveries", "retry", row.id).err


def test_a_purged_event_cannot_be_released(runtime: Runtime, run: Run) -> None:
    """There is no body to handle."""
    first, second = (virtualsms_v1(event_id="evt_1", code=code) for code in ("111111", "222222"))
    handle(runtime, first, second)
    (quarantined,) = (e.id for e in all_rows(runtime, InboxEvent) if e.state == "quarantined")
    run("purge", "--order", webhooks.ORDER, "--yes")
    assert "purged" in run("events", "release", quarantined).err


def test_wrong_usage(run: Run) -> None:
    """Exactly one of --order and --phone, and a valid number; a misspelt id is an error, too."""
    wrong_numbers = ("nobody's", "123", "+44 7700 900999 x7", "1" * 21, "")
    for words in (
        (),
        ("--order", "a", "--phone", FORMER),
        *(("--phone", number) for number in wrong_numbers),
    ):
        assert run("purge", *words, "--yes").code == 2, words
    answer = run("purge", "--order", "nobody", "--yes")
    assert (answer.code, answer.err) == (
        1,
        "codecatch: no order or event matches; nothing was purged\n",
    )


@pytest.mark.parametrize(
    ("stdin", "code"),
    [(Terminal("n\n"), 1), (Terminal("y\n"), 0), (io.StringIO("y\n"), 2)],
    ids=["no", "yes", "no terminal"],
)
def test_a_prompt_asks_for_confirmation(
    runtime: Runtime, run: Run, monkeypatch: pytest.MonkeyPatch, stdin: io.StringIO, code: int
) -> None:
    """On a terminal the prompt names the number of orders; a script without --yes is refused."""
    handle(runtime, virtualsms_v2())
    stdin.seek(0)
    monkeypatch.setattr(sys, "stdin", stdin)
    answer = run("purge", "--order", webhooks.ORDER)
    assert answer.code == code
    assert ("bodies of 1 order?" in answer.err) == (code != 2)
    assert (only_row(runtime, Code).code is None) == (code == 0)


@on_sqlite
def test_the_files_keep_no_purged_value(runtime: Runtime, run: Run) -> None:
    """The database file and its log are clean at once, while other processes are connected."""
    handle(runtime, *(virtualsms_v2(order=f"ord_{each}") for each in range(40)))
    code = next(each for each in all_rows(runtime, Code) if each.order_id == "ord_7")
    event = fetch(runtime, InboxEvent, code.event_id)
    sealed = [each or b"" for each in (code.code, code.text, code.phone_number, event.body)]
    assert [in_files(runtime, each) for each in sealed] == [True] * 4
    assert run("purge", "--order", "ord_7", "--yes").code == 0
    assert [in_files(runtime, each) for each in sealed] == [False] * 4


@on_sqlite
def test_a_write_ahead_log_in_use_is_reported(
    runtime: Runtime, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reader keeps copies alive; a second purge removes them."""
    monkeypatch.setattr("worker.cli.purge._WAL_TIMEOUT", 0.1)
    handle(runtime, virtualsms_v2())
    with runtime.database.reading() as session:
        session.connection().exec_driver_sql("SELECT 1 FROM codes").all()
        answer = run("purge", "--order", webhooks.ORDER, "--yes")
        assert answer.code == 1
        assert "purge again later" in answer.err
    assert run("purge", "--order", webhooks.ORDER, "--yes").code == 0


@on_sqlite
def test_spooled_events_are_reported(
    runtime: Runtime, run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The spool is not searched, and may hold events of the same order."""
    handle(runtime, virtualsms_v2())
    monkeypatch.setenv("SPOOL_DIR", str(tmp_path / "spool"))
    spool = Spool(tmp_path / "spool")
    incoming = IncomingEvent(provider="virtualsms", body=b"{}", arrived_at=clock.now(), key="k")
    spool.store(inbox.prepare(runtime.vault, [incoming]))
    answer = run("purge", "--order", webhooks.ORDER, "--yes")
    spool.close()
    assert answer.code == 1
    assert "1 event in the spool" in answer.err
