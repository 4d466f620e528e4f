"""``codecatch purge``: forgetting somebody who asked for it."""

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
from tests.support.webhooks import daisysim, virtualsms_v1, virtualsms_v2
from tests.worker.cli.conftest import Run
from tests.worker.support import (
    World,
    again,
    deliver,
    everything,
    handle,
    on_sqlite,
    only,
    receive,
)
from worker.schema.models import Code, Delivery, Order, OrderNumber

FORMER = "+447700900999"


def test_an_order_is_forgotten(world: World, run: Run) -> None:
    """Nothing secret is left of it, every command shows null, and other orders stay as they are."""
    made = world.connect()
    event, _ = handle(made, virtualsms_v2(order="ord_1"), virtualsms_v2(order="ord_2"))
    answer = run("purge", "--order", "ord_1", "--yes")
    assert (answer.code, answer.out) == (
        0,
        "forgotten: 1 code, 1 number and 1 event body of 1 order\n",
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


def test_a_number_is_forgotten_in_every_order_that_had_it(world: World, run: Run) -> None:
    """Also where another one came in its place, and however it is written."""
    made = world.connect()
    handle(
        made,
        virtualsms_v2(order="ord_1", phone=FORMER),
        virtualsms_v2(event="order.swapped", order="ord_1"),
        virtualsms_v2(order="ord_2", phone=FORMER),
        virtualsms_v2(order="ord_3"),
    )
    answer = run("purge", "--phone", "44 7700 900999", "--yes")
    assert answer.out == "forgotten: 2 codes, 3 numbers and 3 event bodies of 2 orders\n"
    kept = {code.order_id for code in everything(made, Code) if code.code is not None}
    assert kept == {"ord_3"}
    assert {order.order_id for order in everything(made, Order) if order.phone_number} == kept
    assert len(everything(made, OrderNumber)) == 1


def test_one_provider_may_be_meant(world: World, run: Run) -> None:
    """Two providers may use the same id."""
    made = world.connect()
    handle(made, virtualsms_v2(order="4711"), daisysim(activation="4711"))
    run("purge", "--order", "4711", "--provider", "daisysim", "--yes")
    assert [code.provider for code in everything(made, Code) if code.code] == ["virtualsms"]


@pytest.mark.parametrize("words", [("--order", "ord_9"), ("--phone", FORMER)])
def test_an_event_that_nobody_could_read_is_found(
    world: World, run: Run, words: tuple[str, str]
) -> None:
    """By what its body says, since no order has it; its neighbour is kept."""
    made = world.connect()
    unread = {"number": FORMER, "details": [{"ref": "ord_9"}]}
    meant, other = receive(
        made,
        virtualsms_v2(order="", data=unread),
        virtualsms_v2(order="", data={"details": [{"ref": "ord_8"}]}),
    )
    assert run("purge", *words, "--yes").out == (
        "forgotten: 0 codes, 0 numbers and 1 event body of 0 orders\n"
    )
    kept = {event.id for event in everything(made, InboxEvent) if event.body is not None}
    assert kept == {other}
    assert meant != other


def test_an_old_webhook_brings_nothing_back(world: World, run: Run) -> None:
    """The same again is a duplicate, and what still tells of the number does not restore it."""
    made = world.connect(slack=True)
    first = virtualsms_v1(order="ord_1")
    handle(made, first)
    run("purge", "--order", "ord_1", "--yes")
    planned = len(everything(made, Delivery))
    handle(made, first, virtualsms_v2(event="order.confirmed", order="ord_1"))

    order = only(made, Order)
    assert (order.status, order.phone_number, order.phone_digest) == ("confirmed", None, None)
    assert everything(made, OrderNumber) == []
    assert only(made, Code).code is None
    assert len(everything(made, Delivery)) == planned


def test_what_waited_to_be_told_is_not_told(world: World, run: Run) -> None:
    """No empty message is sent; the row says why, and cannot be retried."""
    made = world.connect(slack=True)
    handle(made, virtualsms_v1(order="ord_1"))
    row = only(made, Delivery)
    run("purge", "--order", "ord_1", "--yes")
    deliver(made, row)
    assert (again(made, row).state, again(made, row).error) == ("dead", "its code was purged")
    assert world.sent_to() == []
    assert "purged" in run("deliveries", "retry", row.id).err


def test_a_purged_quarantine_is_not_released(world: World, run: Run) -> None:
    """There is nothing that could be handled."""
    made = world.connect()
    first, second = (virtualsms_v1(event_id="evt_1", code=code) for code in ("111111", "222222"))
    handle(made, first, second)
    (quarantined,) = (e.id for e in everything(made, InboxEvent) if e.state == "quarantined")
    run("purge", "--order", webhooks.ORDER, "--yes")
    assert "purged" in run("events", "release", quarantined).err


def test_a_stranger_is_not_known(world: World, run: Run) -> None:
    """Exit code 1, so that a misspelt order is noticed."""
    world.connect()
    answer = run("purge", "--order", "nobody", "--yes")
    assert (answer.code, answer.err) == (1, "codecatch: nothing is known of it\n")


@pytest.mark.parametrize(
    "words", [(), ("--order", "a", "--phone", FORMER), ("--phone", "nobody's")]
)
def test_wrong_usage(run: Run, words: tuple[str, ...]) -> None:
    """One of the two, and a number that is one."""
    assert run("purge", *words, "--yes").code == 2


def test_where_nobody_can_be_asked_yes_is_needed(
    world: World, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A script that forgot it changes nothing."""
    made = world.connect()
    handle(made, virtualsms_v2())
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n"))
    assert run("purge", "--order", webhooks.ORDER).code == 2
    assert only(made, Code).code is not None


@pytest.mark.parametrize(("said", "code"), [("n\n", 1), ("y\n", 0)])
def test_a_person_is_asked(
    world: World, run: Run, monkeypatch: pytest.MonkeyPatch, said: str, code: int
) -> None:
    """On a terminal, with how much it is."""
    made = world.connect()
    handle(made, virtualsms_v2())
    terminal = io.StringIO(said)
    monkeypatch.setattr(terminal, "isatty", lambda: True)
    monkeypatch.setattr(sys, "stdin", terminal)
    answer = run("purge", "--order", webhooks.ORDER)
    assert answer.code == code
    assert "bodies of 1 order?" in answer.err
    assert (only(made, Code).code is None) == (code == 0)


@on_sqlite
def test_the_files_hold_nothing_of_it(world: World, run: Run) -> None:
    """While the other processes are connected, the database's file and log are clean at once."""
    made = world.connect()
    handle(made, *(virtualsms_v2(order=f"ord_{each}") for each in range(40)))
    canaries = [
        sealed
        for code in everything(made, Code)
        if code.order_id == "ord_7"
        for sealed in (code.code, code.text, code.phone_number)
    ]
    canaries += [e.body for e in everything(made, InboxEvent) if e.order_id == "ord_7"]
    folder = Path(made.database.engine.url.database or "").parent

    def held() -> list[bool]:
        files = b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())
        return [(sealed or b"")[:40] in files for sealed in canaries]

    assert held() == [True] * 4
    assert run("purge", "--order", "ord_7", "--yes").code == 0
    assert held() == [False] * 4


@on_sqlite
def test_a_log_that_cannot_be_emptied_is_told(world: World, run: Run) -> None:
    """Somebody reads, so a copy may be left; once they are done, purging again ends it."""
    made = world.connect()
    handle(made, virtualsms_v2())
    with made.database.reading() as session:
        session.connection().exec_driver_sql("SELECT 1 FROM codes").all()
        answer = run("purge", "--order", webhooks.ORDER, "--yes")
        assert answer.code == 1
        assert "purge again later" in answer.err
    assert run("purge", "--order", webhooks.ORDER, "--yes").code == 0


@on_sqlite
def test_what_waits_in_the_spool_is_told(
    world: World, run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """It was not looked into, and it may be about the same order."""
    made = world.connect()
    handle(made, virtualsms_v2())
    monkeypatch.setenv("SPOOL_DIR", str(tmp_path / "spool"))
    spool = Spool(tmp_path / "spool")
    incoming = IncomingEvent(provider="virtualsms", body=b"{}", arrived_at=clock.now(), key="k")
    spool.store(inbox.prepare(made.vault, [incoming]))
    answer = run("purge", "--order", webhooks.ORDER, "--yes")
    spool.close()
    assert answer.code == 1
    assert "1 event waits in the spool" in answer.err
