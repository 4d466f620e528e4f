"""Retention: what is deleted when, what stays, and that SQLite's files keep nothing deleted."""

from __future__ import annotations

from datetime import timedelta

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
    all_rows,
    at_once,
    change,
    handle,
    in_files,
    now,
    on_sqlite,
    only_row,
    receive,
    sweep_now,
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

pytestmark = pytest.mark.both_databases

DAY = 24 * HOUR
MONTH = 30 * DAY
CLOCKS = ((InboxEvent, "stored_at"), (Code, "stored_at"), (Order, "created_at"))


def age(runtime: Runtime, span: timedelta) -> None:
    """Move the storage times of all rows into the past."""
    with runtime.database.transaction() as session:
        stored = runtime.database.now(session) - span
        for model, column in CLOCKS:
            session.connection().execute(update(table_of(model)).values({column: stored}))


def finish_work(runtime: Runtime) -> None:
    """Mark all planned work as done."""
    for row in (*all_rows(runtime, Delivery), *all_rows(runtime, Confirmation)):
        change(runtime, row, wake_at=None, state="done")


def purge(runtime: Runtime) -> dict[str, int]:
    """Run one purge."""
    return dict(retention.purge(runtime.database, runtime.retention))


def plain_fields(runtime: Runtime) -> tuple[str | None, ...]:
    """Code, text and number of the only code."""
    code = only_row(runtime, Code)
    columns = ("code", "text", "phone_number")
    return tuple(codes.open_field(runtime.vault, code, column) for column in columns)


@pytest.mark.parametrize(("setting", "kept"), [(None, DAY), ("90m", timedelta(minutes=90))])
def test_codes_are_deleted_after_a_day(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch, setting: str | None, kept: timedelta
) -> None:
    """Or as set; with the text and the body, and not before; the number stays for a month."""
    if setting is not None:
        monkeypatch.setenv("RETENTION_CODES", setting)
    periods = load(RetentionSettings)
    handle(runtime, virtualsms_v1())
    finish_work(runtime)
    age(runtime, kept - 10 * SECOND)
    assert retention.purge(runtime.database, periods) == {}
    assert plain_fields(runtime)[0] == webhooks.CODE
    assert only_row(runtime, InboxEvent).body is not None

    age(runtime, kept + SECOND)
    assert retention.purge(runtime.database, periods) == {"codes": 1, "code_bodies": 1}
    assert plain_fields(runtime) == (None, None, webhooks.UK_PHONE)
    assert only_row(runtime, InboxEvent).body is None
    assert only_row(runtime, Order).phone_number is not None


def test_numbers_are_deleted_after_a_month(runtime: Runtime) -> None:
    """From every table, with their digests; orders and transitions stay."""
    handle(runtime, virtualsms_v1(), virtualsms_v2(event="order.swapped", phone="+447700900999"))
    finish_work(runtime)
    age(runtime, MONTH + SECOND)
    purged = purge(runtime)
    assert {name: purged[name] for name in ("code_numbers", "order_numbers")} == {
        "code_numbers": 1,
        "order_numbers": 1,
    }
    code, order = only_row(runtime, Code), only_row(runtime, Order)
    assert (code.phone_number, code.phone_digest) == (None, None)
    assert (order.phone_number, order.phone_digest) == (None, None)
    assert all_rows(runtime, OrderNumber) == []
    assert [event.body for event in all_rows(runtime, InboxEvent)] == [None, None]
    assert all_rows(runtime, OrderTransition)
    assert only_row(runtime, Confirmation).state == "done"


def test_duplicates_are_detected_after_a_purge(runtime: Runtime) -> None:
    """The same webhook is a duplicate, and so is its code; what is new is stored."""
    first = virtualsms_v1()
    handle(runtime, first)
    finish_work(runtime)
    age(runtime, MONTH + SECOND)
    purge(runtime)
    deliveries = len(all_rows(runtime, Delivery))

    handle(runtime, first, virtualsms_v1())
    assert len(all_rows(runtime, InboxEvent)) == 2
    assert len(all_rows(runtime, Delivery)) == deliveries
    assert plain_fields(runtime)[0] is None

    # A rental may outlive the month.
    handle(runtime, virtualsms_v1(code="112233"))
    assert len(all_rows(runtime, Code)) == 2
    assert only_row(runtime, Order).phone_number is not None
    assert len(all_rows(runtime, OrderNumber)) == 1


def test_a_failed_event_keeps_its_body_for_a_month(runtime: Runtime) -> None:
    """It can be replayed until then; one that is pending keeps it for ever."""
    handle(runtime, virtualsms_v1(order=""))
    assert only_row(runtime, InboxEvent).state == "failed"
    (pending,) = receive(runtime, virtualsms_v1())
    age(runtime, MONTH - 10 * SECOND)
    assert purge(runtime) == {}
    age(runtime, MONTH + SECOND)
    assert purge(runtime) == {"bodies": 1}
    assert [event.id for event in all_rows(runtime, InboxEvent) if event.body] == [pending]


@pytest.mark.parametrize("work", [Delivery, Confirmation])
def test_a_code_with_pending_work_stays(
    runtime: Runtime, work: type[Delivery] | type[Confirmation]
) -> None:
    """A code stays until its delivery or confirmation is done."""
    handle(runtime, virtualsms_v1())
    finish_work(runtime)
    (row,) = all_rows(runtime, work)
    change(runtime, row, wake_at=now(runtime) + HOUR)
    age(runtime, MONTH + SECOND)
    purge(runtime)
    assert plain_fields(runtime) == (
        webhooks.CODE,
        f"Your telegram code is {webhooks.CODE}",
        webhooks.UK_PHONE,
    )

    finish_work(runtime)
    purge(runtime)
    assert plain_fields(runtime) == (None, None, None)


def test_a_polled_order_keeps_its_number(runtime: Runtime) -> None:
    """Reconciliation compares it with the provider's answer."""
    handle(runtime, virtualsms_v2(event="order.swapped"))
    order, at = only_row(runtime, Order), now(runtime)
    row = reconciliation(order.order_id, at)
    insert_row(runtime, row)
    age(runtime, MONTH + SECOND)
    assert "order_numbers" not in purge(runtime)
    change(runtime, row, wake_at=None)
    assert purge(runtime)["order_numbers"] == 1


def reconciliation(order_id: str, at: object, *, id_: str = "R") -> Reconciliation:
    """A reconciliation row of an order."""
    return Reconciliation.model_validate(
        {
            "id": id_, "key": f"{ORDER}:virtualsms:{order_id}", "action": ORDER,
            "provider": "virtualsms", "order_id": order_id, "created_at": at,
            "next_attempt_at": at, "wake_at": at,
        }
    )  # fmt: skip


def insert_row(runtime: Runtime, row: SQLModel) -> None:
    """Insert a row unchanged."""
    with runtime.database.transaction() as session:
        session.connection().execute(insert(table_of(type(row))), [row.model_dump()])


def test_old_rows_are_deleted_after_a_month(runtime: Runtime) -> None:
    """Rejections, aliases, deliveries and polls go, but nothing pending or of an open order."""
    handle(runtime, virtualsms_v2(event="order.swapped"))
    past = now(runtime) - MONTH - HOUR
    old, young = first_id(past), first_id(now(runtime))
    for id_ in (old, young):
        insert_row(runtime, EventAlias(id=id_, first_id="E"))
        insert_row(runtime, RejectedRequest(
            id=id_, at=past, provider="virtualsms", status=401, reason="r", origin=b"sealed"
        ))  # fmt: skip
    with planning(runtime.database) as planner:
        for name in ("old", "pending", "young"):
            planner.plan_deliveries(["slack"], "balance.low", event_id=name)
    done, pending, recent = all_rows(runtime, Delivery)
    change(runtime, done, id=old, wake_at=None)
    change(runtime, pending, id=f"{old[:-1]}Z")
    for number, order_id in enumerate((only_row(runtime, Order).order_id, "ended")):
        row = reconciliation(order_id, past, id_=f"{old[:-1]}{number}")
        insert_row(runtime, row)
        change(runtime, row, wake_at=None)

    assert purge(runtime) == {"rejections": 1, "aliases": 1, "deliveries": 1, "reconciliations": 1}
    assert [row.id for row in all_rows(runtime, Delivery)] == [f"{old[:-1]}Z", recent.id]
    assert [row.id for row in all_rows(runtime, EventAlias)] == [young]
    assert [row.id for row in all_rows(runtime, RejectedRequest)] == [young]
    assert only_row(runtime, Reconciliation).order_id == only_row(runtime, Order).order_id


def test_concurrent_purges_count_each_row_once(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With several batches each, nothing is left and nothing is counted twice."""
    monkeypatch.setattr(retention, "BATCH", 4)
    handle(runtime, *(virtualsms_v1(order=f"ord_{each}") for each in range(20)))
    finish_work(runtime)
    age(runtime, MONTH + SECOND)
    results = [*at_once([lambda: purge(runtime)] * 3), purge(runtime)]
    for kind in ("codes", "code_bodies", "code_numbers", "order_numbers"):
        assert sum(each.get(kind, 0) for each in results) == 20
    assert all_rows(runtime, OrderNumber) == []
    assert purge(runtime) == {}


@on_sqlite
def test_rules_scan_no_table(runtime: Runtime) -> None:
    """An index answers each rule."""
    with runtime.database.reading() as session:
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
def test_the_files_keep_no_deleted_value(runtime: Runtime) -> None:
    """No purged value is left in the database's file or its log."""
    handle(runtime, *(virtualsms_v1(order=f"ord_{each}", text="x" * 900) for each in range(40)))
    finish_work(runtime)
    canaries = [
        each or b""
        for code in all_rows(runtime, Code)
        for each in (code.code, code.text, code.phone_number)
    ]
    canaries += [event.body or b"" for event in all_rows(runtime, InboxEvent)]
    canaries += [row.phone_number or b"" for row in all_rows(runtime, OrderNumber)]
    assert len(canaries) == 5 * 40
    assert all(in_files(runtime, each) for each in canaries)
    age(runtime, MONTH + SECOND)
    purge(runtime)
    assert not any(in_files(runtime, each) for each in canaries)


@on_sqlite
def test_a_reader_does_not_block_retention(runtime: Runtime) -> None:
    """Retention completes during a read, and the log is reported as not truncated."""
    handle(runtime, virtualsms_v1())
    finish_work(runtime)
    with runtime.database.reading() as session:
        session.connection().execute(select(INBOX.c.id)).first()
        age(runtime, DAY + SECOND)
        assert purge(runtime)["codes"] == 1
        assert not runtime.database.truncate_wal(timeout=0.1)
    assert runtime.database.truncate_wal(timeout=0.1)


@on_sqlite
def test_the_scheduled_task_purges(runtime: Runtime) -> None:
    """The task is on the beat schedule and uses the settings of the environment."""
    handle(runtime, virtualsms_v1())
    finish_work(runtime)
    age(runtime, DAY + SECOND)
    sweep_now(runtime)
    try:
        tasks.purge()
    finally:
        process.close()
    assert plain_fields(runtime)[0] is None
    schedule = celery_app.make_app().conf.beat_schedule
    assert schedule["purge"]["task"] == tasks.purge.name
