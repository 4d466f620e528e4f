"""``codecatch destinations`` and ``codecatch routes``."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.http_server import Reply
from tests.support.webhooks import virtualsms_v1
from tests.worker.cli.conftest import Run
from tests.worker.support import SLACK_PATH, World, all_rows, deliver, handle, on_sqlite
from worker.schema.models import Delivery

FILE = """
[[destinations]]
name = "qa"
kind = "slack"
url_env = "QA_SLACK_URL"
fallback = "here"

[[destinations]]
name = "here"
kind = "console"
reveal = "none"

[[routes]]
match = { service = "telegram" }
to = ["qa"]
"""


@pytest.fixture
def configured(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    """An installation with two destinations and a route, in a file."""
    file = tmp_path / "ours.toml"
    file.write_text(FILE)
    monkeypatch.setenv("CODECATCH_CONFIG", str(file))
    monkeypatch.setenv("QA_SLACK_URL", f"{world.slack.url}{SLACK_PATH}")
    world.connect()
    return world


def test_list(configured: World, run: Run) -> None:
    """Kind, state, pending deliveries and time of the last delivery."""
    runtime = configured.connect()
    handle(runtime, virtualsms_v1(order="ord_1"), virtualsms_v1(order="ord_2"))
    deliver(runtime, *all_rows(runtime, Delivery))
    rows = {row["name"]: row for row in run("destinations", "list", "--json").json}
    assert set(rows) == {"here", "qa"}
    assert (rows["qa"]["kind"], rows["qa"]["state"], rows["qa"]["waiting"]) == (
        "slack",
        "enabled",
        0,
    )
    assert rows["qa"]["last_sent_at"] is not None
    assert (rows["here"]["kind"], rows["here"]["last_sent_at"]) == ("console", None)
    assert (rows["qa"]["fallback"], rows["here"]["reveal"]) == ("here", "none")


@pytest.mark.usefixtures("configured")
def test_disable_and_enable(run: Run) -> None:
    """Each reports its effect, and the list shows since when and why."""
    assert run("destinations", "disable", "qa").out == "qa was disabled\n"
    assert run("destinations", "disable", "qa").out == "qa is already disabled\n"
    (row,) = [r for r in run("destinations", "list", "--json").json if r["name"] == "qa"]
    assert (row["state"], row["reason"]) == ("disabled", "disabled by an operator")
    assert row["since"] is not None
    assert run("destinations", "enable", "qa").out == "qa was enabled\n"
    assert run("destinations", "enable", "qa").out == "qa is already enabled\n"


@pytest.mark.parametrize("verb", ["test", "enable", "disable"])
@pytest.mark.usefixtures("configured")
def test_an_unknown_name_is_wrong_usage(run: Run, verb: str) -> None:
    """The error lists the configured names."""
    answer = run("destinations", verb, "aq")
    assert answer.code == 2
    assert "unknown destination aq; configured: here, qa" in " ".join(answer.err.split())


def test_a_test_message_is_sent_now(configured: World, run: Run, tmp_path: Path) -> None:
    """One marked message goes through the destination itself, and obeys its reveal."""
    assert run("destinations", "test", "qa").out == "qa: test message sent\n"
    (tmp_path / "ours.toml").write_text(FILE.replace('fallback = "here"', 'reveal = "masked"'))
    assert run("destinations", "test", "qa").code == 0
    full, masked = configured.sent_to()
    assert "test" in full["text"]
    assert "12••••" in masked["text"]
    assert ["123456" in str(sent) for sent in (full, masked)] == [True, False]

    configured.slack.once("POST", SLACK_PATH, Reply(status=404, body=b"no_service"))
    answer = run("destinations", "test", "qa")
    assert (answer.code, answer.out) == (1, "")
    assert "qa: no_service" in answer.err
    assert SLACK_PATH not in answer.err


@pytest.mark.usefixtures("configured")
def test_routes_test(run: Run) -> None:
    """Prints the destinations and each matching route."""
    taken = run("routes", "test", "--service", "telegram", "--json").json
    assert taken["destinations"] == ["qa"]
    assert taken["by"] == [
        {"route": "routes[0]", "match": "service telegram", "to": ["qa"], "stop": False}
    ]
    assert run("routes", "test", "--service", "google", "--json").json["destinations"] == []
    assert "- qa" in run("routes", "test", "--service", "telegram").out


def test_routes_test_without_routes(world: World, run: Run) -> None:
    """Codes go to every destination, and a line says so."""
    world.connect(slack=True)
    answer = run("routes", "test", "--json")
    assert answer.json["destinations"] == ["slack"]
    assert "no routes are configured" in answer.err


def test_doctor_reports_the_file(
    configured: World, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Destinations with kinds, routes, unreached destinations and unused variables."""
    monkeypatch.setenv("SMTP_URL", "smtp://mail.example.com")
    monkeypatch.setenv("SLACK_WEBHOOK_URL", f"{configured.slack.url}{SLACK_PATH}")
    said = run("doctor").out
    assert "qa (slack), here (console), from" in said
    assert "1 route to qa" in said
    assert "SMTP_URL" in said
    assert "no route leads to here" not in said
    assert "routes[0]: service telegram → qa" in said
    # A variable is used if a destination names it, not if a comment mentions it.
    text = "# not SMTP_URL\n" + FILE.replace("QA_SLACK_URL", "SLACK_WEBHOOK_URL")
    (tmp_path / "ours.toml").write_text(text)
    said = run("doctor").out
    assert "SMTP_URL is not used" in said
    assert "SLACK_WEBHOOK_URL is not used" not in said


@on_sqlite
@pytest.mark.usefixtures("configured")
def test_doctor_warns_of_quiet_hours_without_fallback(run: Run, tmp_path: Path) -> None:
    """A fallback removes the notice."""
    quiet = 'quiet_hours = { from = "22:00", to = "07:00" }\n'
    text = FILE.replace('fallback = "here"\n', f'fallback = "here"\n{quiet}')
    (tmp_path / "ours.toml").write_text(text)
    assert "codes wait until they end" not in run("doctor").out
    (tmp_path / "ours.toml").write_text(FILE.replace('fallback = "here"\n', quiet))
    assert "qa has quiet hours and no fallback, so codes wait" in run("doctor").out
