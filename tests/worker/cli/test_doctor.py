"""``codecatch doctor``."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest

from receiver.database import heartbeats
from receiver.database.engine import Database
from receiver.inbox.store import InboxEvent
from tests.support.stores import ENCRYPTION_KEYS, Store
from tests.support.webhooks import SECRET, TOKEN, signed, virtualsms_v2
from tests.worker.cli.conftest import Answer, Run
from tests.worker.reconciliation.reconciling import HISTORY_PATH, ask, buy, history, listing, plan
from tests.worker.support import (
    DAISYSIM_KEY,
    VIRTUALSMS_KEY,
    World,
    all_rows,
    change,
    fetch,
    handle,
    on_sqlite,
)
from worker.schema.models import Delivery


def checks(answer: Answer) -> dict[str, tuple[str, str]]:
    """Level and message by name, parsed from the text output."""
    lines = [line.split(maxsplit=1) for line in answer.out.splitlines()[:-1]]
    named = [(level, *rest.split("  ", 1)) for level, rest in lines]
    return {name: (level, says.strip()) for level, name, says in named}


def beat(store: Store) -> None:
    """Write heartbeats of worker and sender."""
    with store.database.transaction() as session:
        for part in ("worker", "sender"):
            heartbeats.beat(session, part, store.database.now(session))


@pytest.fixture
def healthy(world: World, monkeypatch: pytest.MonkeyPatch) -> World:
    """A complete installation."""
    world.connect(virtualsms=True, daisysim=True, slack=True)
    monkeypatch.setenv("VIRTUALSMS_WEBHOOK_SECRETS", SECRET)
    monkeypatch.setenv("DAISYSIM_WEBHOOK_TOKENS", TOKEN)
    beat(world.store)
    return world


def test_a_healthy_installation(healthy: World, run: Run) -> None:
    """Every check is ok, the exit code is 0, and no secret is printed; JSON is one object."""
    answer, as_json = run("doctor"), run("doctor", "--json")
    assert answer.code == 0, answer.out
    assert {level for level, _ in checks(answer).values()} == {"ok"}
    assert answer.out.splitlines()[-1] == "usable"
    assert as_json.json["usable"] is True
    assert {"name", "level", "says"} == set(as_json.json["checks"][0])
    said = answer.out + as_json.out
    for secret in (SECRET, TOKEN, ENCRYPTION_KEYS, VIRTUALSMS_KEY, DAISYSIM_KEY, "made-up"):
        assert secret not in said
    assert healthy.store.url not in said


def test_nothing_is_configured(run_unconfigured: Run) -> None:
    """Each missing setting is named with its consequence, and the exit code is 1."""
    answer = run_unconfigured("doctor")
    found = checks(answer)
    assert answer.code == 1
    assert found["database"] == ("broken", "DATABASE_URL: is required")
    assert found["broker"][0] == "broken"
    assert found["webhooks"][0] == "broken"
    assert "no order is confirmed" in found["virtualsms API"][1]
    assert "no code is verified" in found["daisysim API"][1]
    assert found["destinations"][0] == "notice"


def test_problems_are_notices_with_commands(healthy: World, run: Run) -> None:
    """Failed, quarantined and dead rows are notices with the commands to list and fix them."""
    runtime = healthy.connect(slack=True)
    handle(runtime, signed(b'{"type":"order.sms_received"}'))
    (event_id,) = handle(runtime, virtualsms_v2(event_id="evt_1"))
    handle(runtime, virtualsms_v2(event_id="evt_1", order="ord_2"))
    for row in all_rows(runtime, Delivery):
        change(runtime, row, state="dead", wake_at=None)
    event = fetch(runtime, InboxEvent, event_id)
    change(runtime, event, notes="X-VirtualSMS-Timestamp is 400 s behind our clock")
    answer = run("doctor")
    assert answer.code == 0
    assert "codecatch events list --state failed" in answer.out
    assert "codecatch events list --state quarantined" in answer.out
    assert "codecatch deliveries retry" in answer.out
    assert checks(answer)["timestamps"][1].startswith("1 webhook")


def test_missing_workers_are_broken(world: World, run: Run) -> None:
    """Without heartbeats the installation is not usable."""
    world.connect()
    answer = run("doctor")
    assert answer.code == 1
    assert checks(answer)["worker"][0] == "broken"
    assert "codecatch run sender" in checks(answer)["sender"][1]


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("postgresql://user:hidden@127.0.0.1:1/name", "does not answer"),
        ("sqlite:///{}/missing.db", "codecatch migrate"),
        ("sqlite:///{}/empty.db", "codecatch migrate"),
        ("mysql://user:hidden@host/name", "must be sqlite"),
    ],
)
def test_databases_that_cannot_be_used(
    run_unconfigured: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, url: str, says: str
) -> None:
    """Each kind of unusable database has its message, without the password."""
    empty = Database(f"sqlite:///{tmp_path}/empty.db")
    with empty.reading() as session:
        session.connection()
    empty.dispose()
    monkeypatch.setenv("DATABASE_URL", url.format(tmp_path))
    monkeypatch.setenv("ENCRYPTION_KEYS", ENCRYPTION_KEYS)
    answer = run_unconfigured("doctor")
    assert answer.code == 1
    assert checks(answer)["database"][0] == "broken"
    assert says in checks(answer)["database"][1]
    assert "hidden" not in answer.out
    listed = run_unconfigured("codes", "list")
    assert (listed.code, listed.out) == (1, "")
    assert "hidden" not in listed.err
    assert len(listed.err.splitlines()) == 1
    assert not (tmp_path / "missing.db").exists()


@on_sqlite
@pytest.mark.usefixtures("healthy")
@pytest.mark.parametrize(
    ("name", "value", "check"),
    [
        ("ENCRYPTION_KEYS", base64.b64encode(b"x" * 32).decode(), "encryption"),
        ("REDIS_URL", "redis://:hidden@127.0.0.1:1/0", "broker"),
        ("REDIS_URL", "hidden", "broker"),
        ("DAISYSIM_WEBHOOK_TOKENS", "hidden", "daisysim"),
        ("VIRTUALSMS_API_URL", "hidden", "virtualsms API"),
        ("SLACK_WEBHOOK_URL", "https://hidden.example/x", "destinations"),
    ],
)
def test_settings_that_cannot_be_used(
    run: Run, monkeypatch: pytest.MonkeyPatch, name: str, value: str, check: str
) -> None:
    """An invalid value is broken, and is never printed."""
    monkeypatch.setenv(name, value)
    answer = run("doctor")
    assert answer.code == 1
    assert checks(answer)[check][0] == "broken"
    assert "hidden" not in answer.out
    assert value not in answer.out


@on_sqlite
@pytest.mark.usefixtures("healthy")
@pytest.mark.parametrize(
    ("variables", "check", "says"),
    [
        ({"AUTO_CONFIRM": "off"}, "virtualsms API", "confirms nothing"),
        ({"AUTO_CONFIRM": "telegram,signal"}, "virtualsms API", "orders for telegram, signal"),
        ({"DAISYSIM_VERIFY_BACK": "off"}, "daisysim API", "delivered unverified"),
        ({}, "daisysim API", "orders need no confirmation"),
    ],
)
def test_settings_are_explained(
    run: Run, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], check: str, says: str
) -> None:
    """The effect of a setting is shown with its provider."""
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert says in checks(run("doctor"))[check][1]


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ("telegramm,Telegram,whats*", "no order was ever for telegramm or whats*; check"),
        ("TELEGRAM,tele*", None),
        ("on", None),
        ("off", None),
    ],
)
def test_a_confirmed_service_that_was_never_seen(
    healthy: World, run: Run, monkeypatch: pytest.MonkeyPatch, setting: str, says: str | None
) -> None:
    """Its name may be misspelt: then its orders are never confirmed."""
    handle(healthy.connect(), virtualsms_v2(service="telegram"))
    monkeypatch.setenv("AUTO_CONFIRM", setting)
    found = checks(run("doctor")).get("confirmation")
    if says is None:
        assert found is None
    else:
        assert found is not None
        assert found[0] == "notice"
        assert found[1].startswith(says)


@on_sqlite
def test_reconciliation_is_reported(healthy: World, run: Run) -> None:
    """The number of polled orders, and the last read of the order list or its error."""
    runtime = healthy.connect(daisysim=True)
    healthy.api.on("GET", HISTORY_PATH, json=history())
    buy(runtime)
    plan(runtime)
    said = checks(run("doctor"))["daisysim orders"]
    assert said == ("ok", "open orders that are polled: 1; order list: not read yet")
    ask(runtime, listing(runtime, provider="daisysim"))
    level, says = checks(run("doctor"))["daisysim orders"]
    assert (level, says[:-20]) == (
        "ok",
        "open orders that are polled: 1; order list: last read at ",
    )

    healthy.api.on("GET", HISTORY_PATH, status=500)
    ask(runtime, listing(runtime, provider="daisysim"))
    answer = run("doctor")
    level, says = checks(answer)["daisysim orders"]
    assert (answer.code, level) == (0, "notice")
    assert says.endswith("; the last attempt failed: daisysim history: 500")
