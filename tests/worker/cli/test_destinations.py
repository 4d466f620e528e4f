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
    monkeypatch.setenv("DESTINATION_ALLOWED_HOSTS", "127.0.0.1")
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


def test_disable_and_enable(configured: World, run: Run) -> None:
    """Each reports its effect, and the list shows since when and why."""
    configured.connect()
    assert run("destinations", "disable", "qa").out == "qa was disabled\n"
    assert run("destinations", "disable", "qa").out == "qa is already disabled\n"
    (row,) = [r for r in run("destinations", "list", "--json").json if r["name"] == "qa"]
    assert (row["state"], row["reason"]) == ("disabled", "disabled by an operator")
    assert row["since"] is not None
    assert run("destinations", "enable", "qa").out == "qa was enabled\n"
    assert run("destinations", "enable", "qa").out == "qa is already enabled\n"


def test_a_test_message_obeys_reveal(configured: World, run: Run, tmp_path: Path) -> None:
    """A destination that must not see codes does not see the test code either."""
    (tmp_path / "ours.toml").write_text(FILE.replace('fallback = "here"', 'reveal = "masked"'))
    configured.connect()
    assert run("destinations", "test", "qa").code == 0
    (sent,) = configured.sent_to()
    assert "12••••" in sent["text"]
    assert "123456" not in str(sent)


@pytest.mark.parametrize("verb", ["test", "enable", "disable"])
def test_an_unknown_name_is_wrong_usage(configured: World, run: Run, verb: str) -> None:
    """The error lists the configured names."""
    configured.connect()
    answer = run("destinations", verb, "aq")
    assert answer.code == 2
    assert "unknown destination aq; configured: here, qa" in " ".join(answer.err.split())


def test_a_test_message_is_sent_now(configured: World, run: Run) -> None:
    """One marked message goes through the destination itself."""
    configured.connect()
    assert run("destinations", "test", "qa").out == "qa: test message sent\n"
    (sent,) = configured.sent_to()
    assert "test" in sent["text"]


def test_a_test_that_fails_says_why(configured: World, run: Run) -> None:
    """Exit code 1 and the reason, without the URL."""
    configured.connect()
    configured.slack.once("POST", SLACK_PATH, Reply(status=404, body=b"no_service"))
    answer = run("destinations", "test", "qa")
    assert (answer.code, answer.out) == (1, "")
    assert "qa: no_service" in answer.err
    assert SLACK_PATH not in answer.err


def test_routes_test(configured: World, run: Run) -> None:
    """Prints the destinations and each matching route."""
    configured.connect()
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
    configured: World, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Destinations with kinds, routes, unreached destinations and unused variables."""
    configured.connect()
    monkeypatch.setenv("SMTP_URL", "smtp://mail.example.com")
    said = run("doctor").out
    assert "qa (slack), here (console), from" in said
    assert "1 route to qa" in said
    assert "SMTP_URL is not used" in said
    assert "no route leads to here" not in said
    assert "routes[0]: service telegram → qa" in said


@on_sqlite
def test_doctor_finds_unused_variables(
    configured: World, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A variable is used if a destination names it, not if a comment mentions it."""
    configured.connect()
    monkeypatch.setenv("SMTP_URL", "smtp://mail.example.com")
    monkeypatch.setenv("SLACK_WEBHOOK_URL", f"{configured.slack.url}{SLACK_PATH}")
    text = "# not SMTP_URL\n" + FILE.replace("QA_SLACK_URL", "SLACK_WEBHOOK_URL")
    (tmp_path / "ours.toml").write_text(text)
    said = run("doctor").out
    assert "SMTP_URL is not used" in said
    assert "SLACK_WEBHOOK_URL is not used" not in said


@on_sqlite
def test_doctor_warns_of_quiet_hours_without_fallback(
    configured: World, run: Run, tmp_path: Path
) -> None:
    """A fallback removes the notice."""
    configured.connect()
    quiet = 'quiet_hours = { from = "22:00", to = "07:00" }\n'
    text = FILE.replace('fallback = "here"\n', f'fallback = "here"\n{quiet}')
    (tmp_path / "ours.toml").write_text(text)
    assert "codes wait until they end" not in run("doctor").out
    (tmp_path / "ours.toml").write_text(FILE.replace('fallback = "here"\n', quiet))
    assert "qa has quiet hours and no fallback, so codes wait" in run("doctor").out


def test_doctor_reports_errors_in_the_file(configured: World, run: Run, tmp_path: Path) -> None:
    """The same message as at start-up, and exit code 1."""
    configured.connect()
    (tmp_path / "ours.toml").write_text(FILE.replace("fallback", "falback"))
    answer = run("doctor")
    assert answer.code == 1
    assert (
        "ours.toml: destinations[0]: unknown key 'falback'; did you mean 'fallback'?" in answer.out
    )
