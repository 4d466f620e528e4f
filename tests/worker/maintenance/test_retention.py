"""Retention: what goes when, what stays, and that SQLite's files hold nothing of what went."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import insert, select, text, update
from sqlalchemy.dialects import sqlite
from sqlmodel import SQLModel

from receiver import clock
from receiver.inbox.rejections import RejectedRequest
from receiver.inbox.spool import EventAlias
from receiver.inbox.store import INBOX, InboxEvent
from receiver.settings import load
from tests.support import webhooks
from tests.support.webhooks import virtualsms_v1, virtualsms_v2
from tests.worker.support import (
    HOUR,
    SECOND,
    World,
    at_once,
    change,
    everything,
    handle,
    now,
    on_sqlite,
    only,
    receive,
)
from worker.configuration.settings import RetentionSettings
from worker.maintenance import retention
from worker.orders import codes
from worker.outbox.planner import planning
from worker.queries.filters import first_id
from worker.runtime.runtime import Runtime, process
from worker.schema.models import (
    Code,
    Confirmation,
    Delivery,
    Order,
    OrderNumber,
    OrderTransition,
    Reconciliation,
    table_of,
)
from worker.schema.states import ORDER
from worker.tasks import celery_app, tasks

DAY = 24 * HOUR
MONTH = 30 * DAY
CLOCKS = ((InboxEvent, "stored_at"), (Code, "stored_at"), (Order, "created_at"))


def age(made: Runtime, span: timedelta) -> None:
    """Let everything have been stored so long ago."""
    with made.database.transaction() as session:
        stored = made.database.now(session) - span
        for model, column in CLOCKS:
            session.connection().execute(update(table_of(model)).values({column: stored}))


def done(made: Runtime) -> None:
    """Let all that was planned have come to an end."""
    for row in (*everything(made, Delivery), *everything(made, Confirmation)):
        change(made, row, wake_at=None, state="done")


def run(made: Runtime) -> dict[str, int]:
    """One tick."""
    return dict(retention.purge(made.database, made.retention))


def plain(made: Runtime) -> tuple[str | None, ...]:
    """Code, text and number of the one code."""
    code = only(made, Code)
    columns = ("code", "text", "phone_number")
    return tuple(codes.open_field(made.vault, code, column) for column in columns)


@pytest.fixture
def made(world: World) -> Runtime:
    """A worker that confirms and tells."""
    return world.connect(virtualsms=True, slack=True)


def test_what_is_young_stays(made: Runtime) -> None:
    """A second before its time nothing is taken, and nothing written."""
    handle(made, virtualsms_v1())
    done(made)
    age(made, DAY - 10 * SECOND)
    assert run(made) == {}
    assert plain(made)[0] == webhooks.CODE
    assert only(made, InboxEvent).body is not None


def test_a_code_goes_after_a_day(made: Runtime) -> None:
    """With its text and the body that reported it; its number stays until the month is over."""
    handle(made, virtualsms_v1())
    done(made)
    age(made, DAY + SECOND)
    assert run(made) == {"codes": 1, "code_bodies": 1}
    assert plain(made) == (None, None, webhooks.UK_PHONE)
    assert only(made, InboxEvent).body is None
    assert only(made, Order).phone_number is not None


def test_numbers_go_after_a_month(made: Runtime) -> None:
    """From every table, with the digests they were found by; the orders and their steps stay."""
    handle(made, virtualsms_v1(), virtualsms_v2(event="order.swapped", phone="+447700900999"))
    done(made)
    age(made, MONTH + SECOND)
    purged = run(made)
    assert {name: purged[name] for name in ("code_numbers", "order_numbers")} == {
        "code_numbers": 1,
        "order_numbers": 1,
    }
    code, order = only(made, Code), only(made, Order)
    assert (code.phone_number, code.phone_digest) == (None, None)
    assert (order.phone_number, order.phone_digest) == (None, None)
    assert everything(made, OrderNumber) == []
    assert [event.body for event in everything(made, InboxEvent)] == [None, None]
    assert everything(made, OrderTransition)
    assert only(made, Confirmation).state == "done"


def test_an_order_that_is_heard_of_again_has_its_number_again(made: Runtime) -> None:
    """A rental outlives the month: what is reported of it then is new."""
    handle(made, virtualsms_v1())
    done(made)
    age(made, MONTH + SECOND)
    run(made)
    handle(made, virtualsms_v1(code="112233"))
    assert only(made, Order).phone_number is not None
    assert len(everything(made, OrderNumber)) == 1


def test_a_repetition_of_what_was_purged_is_one_still(made: Runtime) -> None:
    """The same webhook is a duplicate, and the same code under another id is told to nobody."""
    first = virtualsms_v1()
    handle(made, first)
    done(made)
    age(made, MONTH + SECOND)
    run(made)
    deliveries = len(everything(made, Delivery))

    handle(made, first, virtualsms_v1())

    assert len(everything(made, InboxEvent)) == 2
    assert len(everything(made, Code)) == 1
    assert len(everything(made, Delivery)) == deliveries
    assert plain(made)[0] is None


def test_an_event_that_could_not_be_read_is_kept_for_the_month(made: Runtime) -> None:
    """It can be replayed until then."""
    handle(made, virtualsms_v1(order=""))
    assert only(made, InboxEvent).state == "failed"
    age(made, MONTH - 10 * SECOND)
    assert run(made) == {}
    age(made, MONTH + SECOND)
    assert run(made) == {"bodies": 1}


@pytest.mark.parametrize("work", [Delivery, Confirmation])
def test_what_has_work_left_is_left_alone(
    made: Runtime, work: type[Delivery] | type[Confirmation]
) -> None:
    """A code that is yet to be told, or to be settled, is there when that happens."""
    handle(made, virtualsms_v1())
    done(made)
    (row,) = everything(made, work)
    change(made, row, wake_at=now(made) + HOUR)
    age(made, MONTH + SECOND)
    run(made)
    assert plain(made) == (
        webhooks.CODE,
        f"Your telegram code is {webhooks.CODE}",
        webhooks.UK_PHONE,
    )

    done(made)
    run(made)
    assert plain(made) == (None, None, None)


def test_an_event_that_waits_keeps_its_body(made: Runtime) -> None:
    """However long the worker was away."""
    receive(made, virtualsms_v1())
    age(made, MONTH + SECOND)
    assert run(made) == {}
    assert only(made, InboxEvent).body is not None


def test_an_order_that_is_asked_for_keeps_its_number(made: Runtime) -> None:
    """A rental is compared by it with what the provider says."""
    handle(made, virtualsms_v2(event="order.swapped"))
    order, at = only(made, Order), now(made)
    row = reconciliation(order.order_id, at)
    put(made, row)
    age(made, MONTH + SECOND)
    assert "order_numbers" not in run(made)
    change(made, row, wake_at=None)
    assert run(made)["order_numbers"] == 1


def reconciliation(order_id: str, at: object, *, id_: str = "R") -> Reconciliation:
    """A row by which a provider is asked about an order."""
    return Reconciliation.model_validate(
        {
            "id": id_, "key": f"{ORDER}:virtualsms:{order_id}", "action": ORDER,
            "provider": "virtualsms", "order_id": order_id, "created_at": at,
            "next_attempt_at": at, "wake_at": at,
        }
    )  # fmt: skip


def put(made: Runtime, row: SQLModel) -> None:
    """Write a row as it is."""
    with made.database.transaction() as session:
        session.connection().execute(insert(table_of(type(row))), [row.model_dump()])


def test_the_trace_of_a_month_ago_goes(made: Runtime) -> None:
    """Refusals, aliases, deliveries and watches that are over; those of open orders stay."""
    handle(made, virtualsms_v2(event="order.swapped"))
    past = now(made) - MONTH - HOUR
    old, young = first_id(past), first_id(now(made))
    for name, id_ in (("old", old), ("young", young)):
        with planning(made.database) as planner:
            planner.deliveries_of(["slack"], "balance.low", event_id=name)
        put(made, EventAlias(id=id_, first_id="E"))
        put(made, RejectedRequest(
            id=id_, at=past, provider="virtualsms", status=401, reason="r", origin=b"sealed"
        ))  # fmt: skip
    first, second = everything(made, Delivery)
    change(made, first, id=old, wake_at=None)
    for number, order_id in enumerate((only(made, Order).order_id, "ended")):
        row = reconciliation(order_id, past, id_=f"{old[:-1]}{number}")
        put(made, row)
        change(made, row, wake_at=None)

    assert run(made) == {"rejections": 1, "aliases": 1, "deliveries": 1, "reconciliations": 1}
    assert [row.id for row in everything(made, Delivery)] == [second.id]
    assert [row.id for row in everything(made, EventAlias)] == [young]
    assert [row.id for row in everything(made, RejectedRequest)] == [young]
    assert only(made, Reconciliation).order_id == only(made, Order).order_id


def test_a_delivery_that_waits_is_never_dropped(made: Runtime) -> None:
    """However old it is."""
    with planning(made.database) as planner:
        planner.deliveries_of(["slack"], "balance.low", event_id="E")
    change(made, only(made, Delivery), id=first_id(now(made) - MONTH - HOUR))
    assert run(made) == {}
    assert only(made, Delivery).state == "pending"


def test_many_ticks_at_once_take_each_row_once(
    made: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In several batches each, with nothing left and nothing counted twice."""
    monkeypatch.setattr(retention, "BATCH", 4)
    handle(made, *(virtualsms_v1(order=f"ord_{each}") for each in range(20)))
    done(made)
    age(made, MONTH + SECOND)
    while_others = [*at_once([lambda: run(made)] * 3), run(made)]
    for kind in ("codes", "code_bodies", "code_numbers", "order_numbers"):
        assert sum(each.get(kind, 0) for each in while_others) == 20
    assert everything(made, OrderNumber) == []
    assert run(made) == {}


@on_sqlite
def test_to_find_nothing_reads_no_table(made: Runtime) -> None:
    """Each rule is answered from an index, or from the little that is left of a month ago."""
    with made.database.reading() as session:
        for rule in retention._rules(clock.now(), clock.now()):
            looked = select(rule.table.c.id).where(rule.due).limit(1)
            words = str(looked.compile(
                dialect=sqlite.dialect(), compile_kwargs={"literal_binds": True}
            ))  # fmt: skip
            steps = session.connection().execute(text(f"EXPLAIN QUERY PLAN {words}")).all()
            assert steps, rule.name
            scans = [step[3] for step in steps if step[3].startswith("SCAN")]
            assert scans == [], rule.name


@on_sqlite
def test_the_files_hold_nothing_of_what_went(made: Runtime) -> None:
    """Not one sealed value is found in the database's file or its log, once it was purged."""
    handle(made, *(virtualsms_v1(order=f"ord_{each}", text="x" * 900) for each in range(120)))
    done(made)
    canaries = [
        sealed
        for code in everything(made, Code)
        for sealed in (code.code, code.text, code.phone_number)
        if sealed is not None
    ]
    canaries += [event.body for event in everything(made, InboxEvent) if event.body]
    canaries += [row.phone_number for row in everything(made, OrderNumber) if row.phone_number]
    assert len(canaries) == 5 * 120
    assert all(map(found_in_files(made), canaries))
    age(made, MONTH + SECOND)
    run(made)
    assert not any(map(found_in_files(made), canaries))


def found_in_files(made: Runtime) -> Callable[[bytes], bool]:
    """Whether the database's files hold the beginning of a sealed value, which fits on a page."""
    path = Path(made.database.engine.url.database or "")
    held = b"".join(each.read_bytes() for each in sorted(path.parent.glob(f"{path.name}*")))
    return lambda sealed: sealed[:40] in held


@on_sqlite
def test_a_reader_holds_up_nobody(made: Runtime) -> None:
    """Retention is done while somebody reads, and says that the log is not empty."""
    handle(made, virtualsms_v1())
    done(made)
    with made.database.reading() as session:
        session.connection().execute(select(INBOX.c.id)).first()
        age(made, DAY + SECOND)
        assert run(made)["codes"] == 1
        assert not made.database.empty_log(patience=0.1)
    assert made.database.empty_log(patience=0.1)


@on_sqlite
def test_the_tick_does_it(made: Runtime) -> None:
    """The task is on the beat's schedule, and purges by the settings of the environment."""
    handle(made, virtualsms_v1())
    done(made)
    age(made, DAY + SECOND)
    try:
        tasks.purge()
    finally:
        process.close()
    assert plain(made)[0] is None
    schedule = celery_app.make_app().conf.beat_schedule
    assert schedule["purge"]["task"] == tasks.purge.name


def test_a_shorter_retention(made: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    """The variables say how long."""
    monkeypatch.setenv("RETENTION_CODES", "90m")
    handle(made, virtualsms_v1())
    done(made)
    age(made, 91 * 60 * SECOND)
    assert run(made) == {}
    assert retention.purge(made.database, load(RetentionSettings))["codes"] == 1
