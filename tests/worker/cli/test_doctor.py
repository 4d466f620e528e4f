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
    change,
    everything,
    handle,
    on_sqlite,
    only,
)
from worker.schema.models import Delivery


def reported_orders(answer: Answer) -> dict[str, tuple[str, str]]:
    """Level and words by name, of an answer in text."""
    lines = [line.split(maxsplit=1) for line in answer.out.splitlines()[:-1]]
    named = [(level, *rest.split("  ", 1)) for level, rest in lines]
    return {name: (level, says.strip()) for level, name, says in named}


def revive(store: Store) -> None:
    """Let both kinds of worker give a sign of life."""
    with store.database.transaction() as session:
        for part in ("worker", "sender"):
            heartbeats.beat(session, part, store.database.now(session))


@pytest.fixture
def healthy(world: World, monkeypatch: pytest.MonkeyPatch) -> World:
    """An installation that lacks nothing."""
    world.connect(virtualsms=True, daisysim=True, slack=True)
    monkeypatch.setenv("VIRTUALSMS_WEBHOOK_SECRETS", SECRET)
    monkeypatch.setenv("DAISYSIM_WEBHOOK_TOKENS", TOKEN)
    revive(world.store)
    return world


def test_a_healthy_installation(healthy: World, run: Run) -> None:
    """Everything is fine, the exit code is 0, and no secret is said."""
    answer = run("doctor")
    assert answer.code == 0, answer.out
    assert {level for level, _ in reported_orders(answer).values()} == {"ok"}
    assert answer.out.splitlines()[-1] == "usable"
    said = answer.out + run("doctor", "--json").out
    for secret in (SECRET, TOKEN, ENCRYPTION_KEYS, VIRTUALSMS_KEY, DAISYSIM_KEY, "made-up"):
        assert secret not in said
    assert healthy.store.url not in said


@pytest.mark.usefixtures("healthy")
def test_json(run: Run) -> None:
    """Programs get one object."""
    found = run("doctor", "--json").json
    assert found["usable"] is True
    assert {"name", "level", "says"} == set(found["checks"][0])


def test_nothing_is_configured(bare: Run) -> None:
    """Each missing thing is named with what it means, and the exit code is 1."""
    answer = bare("doctor")
    found = reported_orders(answer)
    assert answer.code == 1
    assert found["database"] == ("broken", "DATABASE_URL: is required")
    assert found["broker"][0] == "broken"
    assert found["webhooks"][0] == "broken"
    assert "no order is confirmed" in found["virtualsms API"][1]
    assert "no code is verified" in found["daisysim API"][1]
    assert found["destinations"][0] == "notice"


def test_what_needs_a_person_is_said_with_what_to_do(healthy: World, run: Run) -> None:
    """Failed, quarantined, given up, refused and stale: notices, with the command to look."""
    made = healthy.connect(slack=True)
    handle(made, signed(b'{"type":"order.sms_received"}'))
    handle(made, virtualsms_v2(event_id="evt_1"))
    handle(made, virtualsms_v2(event_id="evt_1", order="ord_2"))
    for row in everything(made, Delivery):
        change(made, row, state="dead", wake_at=None)
    answer = run("doctor")
    assert answer.code == 0
    assert "codecatch events list --state failed" in answer.out
    assert "codecatch events list --state quarantined" in answer.out
    assert "codecatch deliveries retry" in answer.out


def test_workers_that_are_away_are_broken(world: World, run: Run) -> None:
    """Webhooks are stored, but nothing becomes of them: that is not usable."""
    world.connect()
    answer = run("doctor")
    assert answer.code == 1
    assert reported_orders(answer)["worker"][0] == "broken"
    assert "codecatch run sender" in reported_orders(answer)["sender"][1]


@on_sqlite
@pytest.mark.usefixtures("healthy")
def test_keys_that_open_nothing(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another key than the database was sealed with is essential, and said without the key."""
    other = base64.b64encode(b"x" * 32).decode()
    monkeypatch.setenv("ENCRYPTION_KEYS", other)
    answer = run("doctor")
    assert answer.code == 1
    assert reported_orders(answer)["encryption"][0] == "broken"
    assert other not in answer.out


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("postgresql://user:hidden@127.0.0.1:1/name", "does not answer"),
        ("sqlite:///{}/missing.db", "codecatch migrate"),
        ("sqlite:///{}/empty.db", "codecatch migrate"),
        ("mysql://user:hidden@host/name", "wants sqlite"),
    ],
)
def test_databases_that_cannot_be_used(
    bare: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, url: str, says: str
) -> None:
    """Away, absent, empty and foreign databases each have their words, without a password."""
    empty = Database(f"sqlite:///{tmp_path}/empty.db")
    with empty.reading() as session:
        session.connection()
    empty.dispose()
    monkeypatch.setenv("DATABASE_URL", url.format(tmp_path))
    monkeypatch.setenv("ENCRYPTION_KEYS", ENCRYPTION_KEYS)
    answer = bare("doctor")
    assert answer.code == 1
    assert reported_orders(answer)["database"][0] == "broken"
    assert says in reported_orders(answer)["database"][1]
    assert "hidden" not in answer.out
    listed = bare("codes", "list")
    assert (listed.code, listed.out) == (1, "")
    assert "hidden" not in listed.err
    assert len(listed.err.splitlines()) == 1
    assert not (tmp_path / "missing.db").exists()


@on_sqlite
@pytest.mark.usefixtures("healthy")
@pytest.mark.parametrize(
    ("name", "value", "check"),
    [
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
    """A value that cannot work is broken, and never quoted."""
    monkeypatch.setenv(name, value)
    answer = run("doctor")
    assert answer.code == 1
    assert reported_orders(answer)[check][0] == "broken"
    assert "hidden" not in answer.out


@on_sqlite
@pytest.mark.usefixtures("healthy")
@pytest.mark.parametrize(
    ("variables", "check", "says"),
    [
        ({"AUTO_CONFIRM": "off"}, "virtualsms API", "confirms nothing"),
        ({"AUTO_CONFIRM": "telegram,signal"}, "virtualsms API", "orders for telegram, signal"),
        ({"DAISYSIM_VERIFY_BACK": "off"}, "daisysim API", "told unverified"),
        ({}, "daisysim API", "no order needs to be confirmed"),
    ],
)
def test_choices_are_said(
    run: Run,
    monkeypatch: pytest.MonkeyPatch,
    variables: dict[str, str],
    check: str,
    says: str,
) -> None:
    """What a setting means for codes and orders stands beside the provider."""
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert says in reported_orders(run("doctor"))[check][1]


def test_stale_timestamps_are_counted(healthy: World, run: Run) -> None:
    """A clock that is wrong shows in the webhooks' timestamps."""
    made = healthy.connect()
    handle(made, virtualsms_v2())
    event = only(made, InboxEvent)
    change(made, event, notes="X-VirtualSMS-Timestamp is 400 s behind our clock")
    assert reported_orders(run("doctor"))["timestamps"][1].startswith("1 webhook")


@on_sqlite
def test_what_is_reconciled_is_said(healthy: World, run: Run) -> None:
    """How many orders are asked for, and when the newest were read; or why they cannot be."""
    made = healthy.connect(daisysim=True)
    healthy.api.on("GET", HISTORY_PATH, json=history())
    buy(made)
    plan(made)
    said = reported_orders(run("doctor"))["daisysim orders"]
    assert said == ("ok", "1 open ones are asked for; the newest were not read yet")
    ask(made, listing(made, provider="daisysim"))
    level, says = reported_orders(run("doctor"))["daisysim orders"]
    assert (level, says[:-20]) == ("ok", "1 open ones are asked for; the newest were read at ")

    healthy.api.on("GET", HISTORY_PATH, status=500)
    ask(made, listing(made, provider="daisysim"))
    answer = run("doctor")
    level, says = reported_orders(answer)["daisysim orders"]
    assert (answer.code, level) == (0, "notice")
    assert says.endswith("and cannot be now: daisysim history: 500")
