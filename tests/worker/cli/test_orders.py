"""``codecatch orders``."""

from __future__ import annotations

import fnmatch
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import String, sql

from tests.support import webhooks
from tests.support.stores import Store
from tests.support.webhooks import daisysim, virtualsms_v2
from tests.worker.cli.conftest import Run
from tests.worker.support import World, handle
from worker.queries.filters import is_named
from worker.runtime.runtime import Runtime

CONNECTED: dict[str, bool] = {}

pytestmark = pytest.mark.both_databases

KEYS = [
    *("provider", "order_id", "phone_number", "service", "country"),
    *("status", "price", "created_at", "updated_at", "confirmed_at"),
]
SECOND_PHONE = "+447700900555"


def test_list_keys(world: World, run: Run) -> None:
    """JSON has exactly the documented keys; the number is masked unless revealed."""
    handle(world.connect(), virtualsms_v2(order="ord_1"))
    (row,) = run("orders", "list", "--json").json
    assert list(row) == KEYS
    assert (row["status"], row["phone_number"]) == ("received", "+4477•••••123")
    (revealed,) = run("orders", "list", "--json", "--reveal").json
    assert revealed["phone_number"] == webhooks.UK_PHONE


FILTERS: list[tuple[tuple[str, ...], set[str]]] = [
    (("--provider", "daisysim"), {"4711"}),
    (("--service", "WhatsApp"), {"4711"}),
    (("--order", "ord_1"), {"ord_1"}),
    (("--state", "waiting"), {"ord_2"}),
    (("--phone", webhooks.UK_PHONE), {"ord_1", "ord_2"}),
    (("--phone", SECOND_PHONE), {"ord_2"}),
    (("--since", "1h", "--limit", "2"), {"4711", "ord_2"}),
    (("--until", "2020-01-01"), set()),
]


def test_filters(runtime: Runtime, run: Run) -> None:
    """Each filter narrows the list, and a former number finds its order."""
    handle(runtime, virtualsms_v2(order="ord_1"))
    swap: dict[str, Any] = {"order": "ord_2", "event": "order.swapped"}
    handle(runtime, virtualsms_v2(**swap, received_at=None))
    handle(runtime, virtualsms_v2(**swap, phone=SECOND_PHONE, event_id="evt_2"))
    handle(runtime, daisysim(activation="4711"))
    for words, found in FILTERS:
        rows = run("orders", "list", "--json", *words).json
        assert {row["order_id"] for row in rows} == found, words


TEXTS = st.text(st.sampled_from("abAB+*?[]!-^\\._ éÉ"), min_size=1, max_size=6)


@pytest.mark.both_databases
@given(pattern=TEXTS, values=st.lists(TEXTS, min_size=1, max_size=5))
@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_globs_are_those_of_routes(store: Store, pattern: str, values: list[str]) -> None:
    """On either database, and in any case of the ASCII letters."""
    conditions = [is_named(pattern, sql.literal(each, String)) for each in values]
    with store.database.reading() as session:
        matched = session.connection().execute(sql.select(*conditions)).one()
    for value, found in zip(values, matched, strict=True):
        if value.isascii() and pattern.isascii():
            assert bool(found) is fnmatch.fnmatchcase(value.lower(), pattern.lower()), value
        assert found or not fnmatch.fnmatchcase(value, pattern)


def test_show(world: World, run: Run) -> None:
    """One object with the order, its codes, transitions and confirmation."""
    runtime = world.connect(virtualsms=True)
    (event,) = handle(runtime, virtualsms_v2(order="ord_1"))
    shown = run("orders", "show", "ord_1", "--json").json
    assert set(KEYS) < set(shown)
    (code,) = shown["codes"]
    assert (code["code"], code["state"]) == ("48••••", "ready")
    (step,) = shown["transitions"]
    assert (step["from_status"], step["to_status"]) == ("created", "received")
    assert (step["event"], step["documented"]) == (event, True)
    confirmation = shown["confirmation"]
    assert (confirmation["action"], confirmation["state"]) == ("confirm", "pending")
    assert [number["phone_number"] for number in shown["numbers"]] == ["+4477•••••123"]
    text = run("orders", "show", "ord_1", "--reveal").out
    assert webhooks.CODE in text


def test_show_marks_undocumented_transitions(runtime: Runtime, run: Run) -> None:
    """A code after the end of the order: events came late, or one was lost."""
    handle(runtime, virtualsms_v2(order="ord_1", event="order.cancelled"))
    shown = run("orders", "show", "ord_1", "--json").json
    assert (shown["codes"], shown["confirmation"]) == ([], None)
    assert "none" in run("orders", "show", "ord_1").out
    handle(runtime, virtualsms_v2(order="ord_1"))
    steps = run("orders", "show", "ord_1", "--json").json["transitions"]
    assert [step["documented"] for step in steps] == [True, False]


def test_show_of_an_unknown_order(run: Run) -> None:
    """An unknown order is reported."""
    answer = run("orders", "show", "nope")
    assert (answer.code, answer.out) == (1, "")
    assert "nope" in answer.err


def test_show_of_an_ambiguous_order_id(runtime: Runtime, run: Run) -> None:
    """An id that two providers use needs --provider."""
    handle(runtime, virtualsms_v2(order="4711"), daisysim(activation="4711"))
    answer = run("orders", "show", "4711")
    assert answer.code == 1
    assert "--provider" in answer.err
    shown = run("orders", "show", "4711", "--provider", "daisysim", "--json").json
    assert shown["provider"] == "daisysim"
