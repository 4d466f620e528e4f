"""Provider calls as commands: confirmation, masking, budgets and errors."""

from __future__ import annotations

import json
import sys
import time
from datetime import timedelta

import pytest
from sqlalchemy import text
from sqlalchemy.exc import OperationalError

from tests.support.http_server import HttpServer
from tests.support.stores import Store
from tests.worker.cli.apis import BUY, MADE, ORDERS, PHONE
from tests.worker.cli.conftest import Run, Terminal
from tests.worker.support import (
    HOUR,
    SECOND,
    all_rows,
    change_budget,
    error_reply,
    now,
    on_sqlite,
    only_row,
)
from worker.calls import record as call_record
from worker.calls.caller import Caller
from worker.outbox import call_budgets
from worker.schema.models import Budget, Order


@on_sqlite
@pytest.mark.parametrize(("typed", "code"), [("n\n", 1), ("\n", 1), ("", 1), ("y\n", 0), (None, 2)])
def test_a_prompt_asks_for_confirmation(
    run: Run, selling_api: HttpServer, monkeypatch: pytest.MonkeyPatch, typed: str | None, code: int
) -> None:
    """The prompt names the purchase; only yes buys. Without a terminal it is wrong usage."""
    if typed is not None:
        monkeypatch.setattr(sys, "stdin", Terminal(typed))
    answer = run(*BUY)
    assert answer.code == code
    prompt = "virtualsms create_order, service wa, country GB: this can cost money"
    assert (prompt in answer.err) == (code != 2)
    assert ("--yes" in answer.err and answer.err.count("\n") == 1) == (code == 2)
    assert len(selling_api.requests()) == (code == 0)


@on_sqlite
def test_a_reading_call_has_no_prompt(run: Run, api: HttpServer) -> None:
    """A reading call has no option --yes."""
    api.on("GET", f"{ORDERS}/ord_1", json=MADE)
    assert run("virtualsms", "get-order", "ord_1").code == 0
    assert run("virtualsms", "get-order", "ord_1", "--yes").code == 2


@on_sqlite
@pytest.mark.usefixtures("selling_api")
def test_a_number_is_masked_unless_revealed(run: Run) -> None:
    """Masked output names the command that shows the number."""
    masked = run(*BUY, "--yes")
    masked.hides(PHONE)
    assert "codecatch orders show ord_1 --provider virtualsms --reveal" in masked.err
    revealed = run(*BUY, "--yes", "--reveal")
    assert PHONE in revealed.out
    assert "orders show" not in revealed.err
    assert run(*BUY, "--yes", "--reveal", "--json").json["phone_number"] == PHONE


def test_calls_use_the_shared_budget(
    store: Store, run: Run, selling_api: HttpServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command reports a used-up budget, waits for it, and then calls."""
    monkeypatch.setenv("VIRTUALSMS_RATE_LIMIT", "1")
    assert run(*BUY, "--yes").code == 0
    budget = only_row(store, Budget)
    assert budget.key == "virtualsms:calls"
    assert len(call_budgets._within_window(budget, now(store))) == 1
    pauses = []

    def sleep(seconds: float) -> None:
        pauses.append(seconds)
        change_budget(store, spent="[]")

    monkeypatch.setattr(time, "sleep", sleep)
    answer = run("virtualsms", "create-order", "wa", "GB", "--yes", "--json")
    assert answer.code == 0
    assert answer.err.startswith(
        "codecatch: virtualsms create_order: the call budget is used up; waiting until 20"
    )
    assert len(pauses) == 1
    assert 55 < pauses[0] <= 64
    assert len(selling_api.requests()) == 2


@on_sqlite
def test_the_wait_for_budget_is_bounded(
    store: Store, run: Run, selling_api: HttpServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A longer wait ends the command with the time of the next call; no request is sent."""
    assert run(*BUY, "--yes").code == 0
    until = now(store) + HOUR
    change_budget(store, blocked_until=until)
    answer = run(*BUY, "--yes")
    assert (answer.code, answer.out) == (1, "")
    assert f"after {until.isoformat()[:19]}Z" in answer.err
    # Other processes may use up the budget whenever it frees.
    change_budget(store, blocked_until=now(store) + SECOND)
    monkeypatch.setattr(time, "sleep", lambda _: change_budget(store, blocked_until=until))
    assert run(*BUY, "--yes").code == 1
    assert len(selling_api.requests()) == 1


def test_a_429_blocks_the_key(store: Store, run: Run, api: HttpServer) -> None:
    """Calls stay blocked for the Retry-After time, also for the next command."""
    reply = error_reply("virtualsms", 429, "rate-limited")
    api.on("POST", ORDERS, status=429, json=reply.json, headers={"Retry-After": "300"})
    answer = run(*BUY, "--yes")
    assert answer.code == 1
    assert "try again in 300 s" in answer.err
    blocked = only_row(store, Budget).blocked_until
    assert blocked is not None
    assert timedelta(seconds=280) < blocked - now(store) <= timedelta(seconds=300)
    assert run("virtualsms", "get-balance").code == 1
    assert len(api.requests()) == 1


@on_sqlite
@pytest.mark.parametrize(
    ("words", "line"),
    [
        (BUY, "virtualsms create_order: 127.0.0.1: "),
        (("daisysim", "balance"), "daisysim balance: 127.0.0.1: "),
    ],
)
@pytest.mark.usefixtures("api")
def test_an_unreachable_provider(
    run: Run, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], line: str
) -> None:
    """A request that was not sent needs no lookup: one line names the variable."""
    variable = f"{words[0].upper()}_API_URL"
    monkeypatch.setenv(variable, "http://127.0.0.1:1/api")
    answer = run(*words, *(("--yes",) if words == BUY else ()))
    assert answer.code == 1
    assert answer.err.startswith(f"codecatch: {line}")
    assert f"no request was sent; check the network and {variable}" in answer.err
    assert answer.err.count("\n") == 1


@on_sqlite
@pytest.mark.usefixtures("api")
def test_a_missing_key_is_named(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """One line names the missing variable."""
    monkeypatch.delenv("VIRTUALSMS_API_KEY")
    answer = run("virtualsms", "get-balance")
    assert (answer.code, answer.out) == (1, "")
    assert answer.err == "codecatch: VIRTUALSMS_API_KEY: is required\n"
    assert run("daisysim", "balance").err.startswith("codecatch: daisysim balance: 404")


def test_without_a_database(run_unconfigured: Run, api: HttpServer) -> None:
    """Call budgets need the database: the error names the variable, and no request is sent."""
    answer = run_unconfigured("virtualsms", "get-balance")
    assert answer.code == 1
    assert "DATABASE_URL" in answer.err
    assert "codecatch up" in answer.err
    assert api.requests() == []


def test_nothing_is_bought_that_could_not_be_recorded(
    store: Store, run: Run, selling_api: HttpServer
) -> None:
    """A database of another version is migrated first."""
    with store.database.transaction() as session:
        session.connection().execute(text("UPDATE alembic_version SET version_num = '0000'"))
    answer = run(*BUY, "--yes")
    assert answer.code == 1
    assert "codecatch migrate" in answer.err
    assert selling_api.requests() == []


@on_sqlite
@pytest.mark.usefixtures("selling_api")
def test_what_was_bought_is_shown_even_if_it_cannot_be_recorded(
    store: Store, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The database failed after the money was spent: the printed id is the only trace."""

    def failing_record(*_: object, **__: object) -> bool:
        raise OperationalError("INSERT", {}, Exception("away"))

    monkeypatch.setattr(call_record, "record", failing_record)
    monkeypatch.setattr("receiver.database.engine._RETRY_SECONDS", (0.0,))
    answer = run(*BUY, "--yes")
    assert answer.code == 1
    assert "ord_1" in answer.out
    assert "the call succeeded, but its result cannot be recorded" in answer.err
    assert all_rows(store, Order) == []


@pytest.mark.parametrize("order_id", ["ord\ud800", "ord\0"])
def test_an_id_that_no_database_takes_is_shown(run: Run, api: HttpServer, order_id: str) -> None:
    """Whatever an answer holds ends in a line, and never in a traceback."""
    api.on("POST", ORDERS, json={**MADE, "order_id": order_id})
    answer = run(*BUY, "--yes", "--json")
    assert json.loads(answer.out)["order_id"] == order_id
    assert (answer.code == 0) or "cannot be recorded" in answer.err


@on_sqlite
@pytest.mark.usefixtures("selling_api")
def test_an_interrupted_purchase_may_have_been_made(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command that checks the outcome is printed."""

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Caller, "make", interrupted)
    answer = run(*BUY, "--yes")
    assert answer.code != 0
    assert "check before you retry: codecatch virtualsms list-orders" in answer.err
    assert "Traceback" not in answer.err


@on_sqlite
@pytest.mark.parametrize(
    "words",
    [
        ("virtualsms", "nonsense"),
        ("virtualsms", "get-order"),
        ("virtualsms", "extend-rental", "ord_1", "0", "--yes"),
        ("virtualsms", "wait-for-sms", "ord_1", "--timeout", "nan"),
        ("daisysim", "prices", "russia", "wa"),
        ("daisysim", "purchase", "6", "wa", "cheap", "--yes"),
        ("daisysim", "purchase", "6", "wa", "1e999", "--yes"),
        ("daisysim", "purchase", "6", "wa", "0", "--yes"),
        ("daisysim", "history", "--status", "lost"),
        ("daisysim", "history", "--json", "--csv"),
        ("daisysim", "check", "\udcff"),
    ],
)
def test_wrong_usage(run: Run, api: HttpServer, words: tuple[str, ...]) -> None:
    """Invalid arguments are refused before any request."""
    assert run(*words).code == 2
    assert api.requests() == []


@on_sqlite
def test_an_id_that_would_change_the_path(run: Run, api: HttpServer) -> None:
    """It is refused with one line."""
    answer = run("virtualsms", "get-order", "..")
    assert answer.code == 1
    assert answer.err.endswith("nothing was sent: check the arguments\n")
    assert api.requests() == []


@on_sqlite
def test_hostile_answers_are_harmless(run: Run, api: HttpServer) -> None:
    """Neither a name nor an error text controls the terminal."""
    hostile = "\x1b[31mred\u202e"
    api.on("GET", "/api/v2/services", json=[{"id": hostile, "name": hostile}])
    assert run("virtualsms", "list-services").out.splitlines()[1].split() == ["red", "red"]
    api.on(
        "GET",
        "/api/v2/services",
        handler=lambda _: error_reply("virtualsms", 400, "validation", hostile),
    )
    answer = run("virtualsms", "list-services")
    assert answer.code == 1
    assert "\x1b" not in answer.err
    assert "\u202e" not in answer.err
