"""Phone numbers that older versions stored: found in every spelling, and brought to one form."""

from __future__ import annotations

from datetime import timedelta

import pytest
from sqlalchemy import delete, update

from receiver.vault.sealing import generate_key
from tests.support.stores import Store
from tests.support.webhooks import daisysim, virtualsms_v2
from tests.worker.cli.conftest import Run
from tests.worker.support import World, all_rows, at_once, change, fetch, handle, now, only_row
from worker.maintenance import erasure, stored_numbers
from worker.maintenance.stored_numbers import OVERLAP
from worker.orders import codes
from worker.orders import store as orders
from worker.queries.filters import Filters
from worker.runtime.runtime import Runtime, process
from worker.schema.models import Code, Order, OrderNumber, Rewrite, table_of
from worker.tasks import tasks

pytestmark = pytest.mark.both_databases

NUMBER = "+447700900304"
SPELLINGS = [
    "+447700900304",
    "447700900304",
    "+44 7700 900304",
    "+44-7700-900-304",
    "0044 7700 900304",
    "00447700900304",
    "+44 (0)7700 900.304",
    "tel:+44-7700-900304",
    "07700 900304",
    "+٤٤٧٧٠٠٩٠٠٣٠٤",
    "\u202a+44\u00a07700\u200b 900304\u202c",
]
OTHER = "+447700900999"


def write_as_before(store: Runtime | Store, order: Order, number: str) -> None:
    """Give an order, its numbers and its codes this number as an older version stored it."""
    of_order = [code for code in all_rows(store, Code) if code.order_id == order.order_id]
    numbers = [row for row in all_rows(store, OrderNumber) if row.order_ref == order.id]
    for row in (order, *numbers, *of_order):
        name = table_of(type(row)).name
        sealed = store.vault.seal(number, table=name, column="phone_number", row=row.id)  # type: ignore[attr-defined]
        digest = store.vault.digest("phone", number)
        change(store, row, phone_number=sealed, phone_digest=digest)


def old_database(runtime: Runtime) -> dict[str, str]:
    """A database with the same number in every spelling, by order, and one order with another."""
    wrote = {f"ord_{each}": spelling for each, spelling in enumerate(SPELLINGS)}
    handle(runtime, *(virtualsms_v2(order=order, phone=OTHER) for order in [*wrote, "other"]))
    for order in all_rows(runtime, Order):
        if order.order_id in wrote:
            write_as_before(runtime, order, wrote[order.order_id])
    with runtime.database.transaction() as session:
        session.connection().execute(delete(table_of(Rewrite)))
    return wrote


def order_named(store: Runtime | Store, order_id: str) -> Order:
    """The order with the provider's id."""
    (order,) = (each for each in all_rows(store, Order) if each.order_id == order_id)
    return order


def add_number(store: Store | Runtime, order: Order, number: str, row: str) -> None:
    """Add a former number of an order, as an older version stored it."""
    with store.database.transaction() as session:
        sealed = store.vault.seal(number, table="order_numbers", column="phone_number", row=row)
        session.add(
            OrderNumber(
                id=row, order_ref=order.id, phone_number=sealed,
                phone_digest=store.vault.digest("phone", number), since=order.created_at,
            )
        )  # fmt: skip


def test_a_migrated_database_finds_every_spelling(world: World, run: Run) -> None:
    """Whatever was stored, whatever is typed: every list finds the orders, and no other."""
    wrote = old_database(world.connect(slack=True))
    assert run("migrate").out.startswith("phone numbers brought to one form: 30, merged: 0")
    for asked in SPELLINGS:
        for noun in ("codes", "orders"):
            rows = run(noun, "list", "--phone", asked, "--json", "--reveal").json
            assert {row["order_id"] for row in rows} == set(wrote), (noun, asked)
            assert {row["phone_number"] for row in rows} == {NUMBER}
        for noun in ("events", "deliveries"):
            found = run(noun, "list", "--phone", asked, "--json").json
            assert len(found) == len(wrote), (noun, asked)


def test_purge_finds_every_spelling(world: World, run: Run) -> None:
    """Nothing of the number stays, and nothing else is purged."""
    runtime = world.connect()
    wrote = old_database(runtime)
    run("migrate")
    count = len(wrote)
    for asked in SPELLINGS:
        targets = erasure.find(runtime.database, runtime.vault, Filters(phone=asked))
        assert len(targets.orders) == count, asked
    assert run("purge", "--phone", "(07700) 900-304", "--yes").out == (
        f"purged: {count} codes, {count} numbers and {count} event bodies of {count} orders\n"
    )
    assert [row.order_id for row in all_rows(runtime, Order) if row.phone_number] == ["other"]
    assert [row.order_id for row in all_rows(runtime, Code) if row.phone_number] == ["other"]


def test_usual_spellings_are_found_before_the_pass(world: World, run: Run) -> None:
    """An older version that still runs may write them after it."""
    old_database(world.connect())
    found = run("orders", "list", "--phone", NUMBER, "--json").json
    usual = {"+447700900304", "447700900304", "+44 7700 900304", "00447700900304", "07700 900304"}
    assert {f"ord_{SPELLINGS.index(each)}" for each in usual} <= {row["order_id"] for row in found}


def test_the_pass_rewrites_what_is_sealed(world: World) -> None:
    """Orders, their numbers and their codes open to the normal form; a second pass does nothing."""
    runtime = world.connect()
    wrote = old_database(runtime)
    done = stored_numbers.rewrite(runtime.database, runtime.vault)
    assert (done.finished, done.counts["changed"]) == (True, 3 * (len(wrote) - 1))

    digest = runtime.vault.digest("phone", NUMBER)
    for order_id in wrote:
        order = order_named(runtime, order_id)
        assert order.phone_digest == digest
        number = orders.open_number(runtime.vault, order.phone_number, order=order.id)
        assert number == NUMBER
    found = [code for code in all_rows(runtime, Code) if code.order_id in wrote]
    opened = {codes.open_field(runtime.vault, code, "phone_number") for code in found}
    assert (opened, {code.phone_digest for code in found}) == ({NUMBER}, {digest})
    assert stored_numbers.rewrite(runtime.database, runtime.vault).counts == {}


def test_two_spellings_of_one_order_become_one_row(world: World) -> None:
    """The one since the earlier time; other former numbers stay."""
    runtime = world.connect()
    handle(runtime, virtualsms_v2(order="ord_1", phone=NUMBER))
    order = only_row(runtime, Order)
    first = only_row(runtime, OrderNumber)
    later = first.since + timedelta(minutes=1)
    for row, number in (("01ARZ3NDEKTSV4RRFFQ69G5FAV", "+44 7700 900304"),
                        ("01ARZ3NDEKTSV4RRFFQ69G5FAW", "07700 900304"),
                        ("01ARZ3NDEKTSV4RRFFQ69G5FAX", OTHER)):  # fmt: skip
        add_number(runtime, order, number, row)
    with runtime.database.transaction() as session:
        table = table_of(OrderNumber)
        session.connection().execute(
            update(table).where(table.c.id == first.id).values(since=later)
        )
    done = stored_numbers.rewrite(runtime.database, runtime.vault)

    assert done.counts["merged"] == 2
    kept = {row.phone_digest: row.since for row in all_rows(runtime, OrderNumber)}
    assert set(kept) == {runtime.vault.digest("phone", each) for each in (NUMBER, OTHER)}
    assert kept[runtime.vault.digest("phone", NUMBER)] < later


def test_a_pass_resumes_where_it_stopped(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Out of time or killed: it continues behind the last batch, and is due until it ends."""
    runtime = world.connect()
    wrote = old_database(runtime)
    monkeypatch.setattr(stored_numbers, "BATCH", 2)
    assert stored_numbers.is_due(runtime.database)
    done = [stored_numbers.rewrite(runtime.database, runtime.vault, seconds=0)]
    assert not done[0].finished
    (place,) = (row.place for row in all_rows(runtime, Rewrite))
    assert place == all_rows(runtime, OrderNumber)[1].id
    assert stored_numbers.is_due(runtime.database)

    while not done[-1].finished:
        done.append(stored_numbers.rewrite(runtime.database, runtime.vault, seconds=0))
    assert sum(each.counts.get("changed", 0) for each in done) == 3 * (len(wrote) - 1)
    assert not stored_numbers.is_due(runtime.database)


def test_passes_at_once_share_the_work(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Several hosts may migrate at once."""
    runtime = world.connect()
    wrote = old_database(runtime)
    monkeypatch.setattr(stored_numbers, "BATCH", 3)
    done = at_once([lambda: stored_numbers.rewrite(runtime.database, runtime.vault)] * 3)
    assert sum(each.counts.get("changed", 0) for each in done) == 3 * (len(wrote) - 1)


def test_what_an_older_version_writes_later_is_rewritten(world: World) -> None:
    """The workers look for it for a week; ``codecatch migrate`` looks always."""
    runtime = world.connect()
    stored_numbers.rewrite(runtime.database, runtime.vault)
    handle(runtime, virtualsms_v2(order="ord_1", phone=OTHER))
    write_as_before(runtime, only_row(runtime, Order), "07700 900304")
    assert not stored_numbers.is_due(runtime.database)

    for row in all_rows(runtime, Rewrite):
        move(runtime, row, checked_at=now(runtime) - timedelta(minutes=11))
    assert stored_numbers.is_due(runtime.database)
    assert stored_numbers.rewrite(runtime.database, runtime.vault).counts["changed"] == 3
    for row in all_rows(runtime, Rewrite):
        long_ago = now(runtime) - OVERLAP - timedelta(days=1)
        move(runtime, row, checked_at=long_ago, finished_at=long_ago)
    assert not stored_numbers.is_due(runtime.database)


def test_the_workers_continue_a_pass(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The periodic task does what ``codecatch up`` had no time for."""
    runtime = world.connect()
    wrote = old_database(runtime)
    monkeypatch.setattr(process, "get", lambda: runtime)
    tasks.purge()
    digests = [order.phone_digest for order in all_rows(runtime, Order)]
    assert digests.count(runtime.vault.digest("phone", NUMBER)) == len(wrote)
    assert not stored_numbers.is_due(runtime.database)


def move(store: Runtime, row: Rewrite, **values: object) -> None:
    """Change when a pass was made."""
    table = table_of(Rewrite)
    with store.database.transaction() as session:
        session.connection().execute(update(table).where(table.c.name == row.name).values(**values))


def test_rows_without_a_number_stay_as_they_are(world: World, run: Run) -> None:
    """Erased, or never known: the pass brings nothing back."""
    runtime = world.connect()
    old_database(runtime)
    run("purge", "--order", "ord_2", "--yes")
    stored_numbers.rewrite(runtime.database, runtime.vault)
    order = order_named(runtime, "ord_2")
    assert (order.phone_number, order.phone_digest) == (None, None)


def test_a_number_that_does_not_open_is_left_and_reported(
    world: World, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others are rewritten."""
    runtime = world.connect()
    old_database(runtime)
    order = order_named(runtime, "ord_2")
    change(runtime, order, phone_number=b"\x01" + bytes(40))
    answer = run("migrate")
    assert answer.code == 0
    assert "1 phone numbers do not open with ENCRYPTION_KEYS" in answer.err
    assert fetch(runtime, Order, order.id).phone_number == b"\x01" + bytes(40)

    monkeypatch.setenv("ENCRYPTION_KEYS", generate_key())
    assert "ENCRYPTION_KEYS: cannot open this database" in run("migrate").err


def test_the_country_of_an_older_order_is_that_of_its_number(world: World, run: Run) -> None:
    """DaisySIM's webhook names no country."""
    runtime = world.connect()
    handle(runtime, daisysim(activation="4711", phone=NUMBER))
    change(runtime, only_row(runtime, Order), country="16", country_alias=None)
    assert run("orders", "list", "--country", "gb", "--json").json == []
    run("migrate")
    for words in (("--country", "gb"), ("--phone", "07700 900304")):
        assert len(run("orders", "list", *words, "--json").json) == 1
