"""``codecatch destinations`` and ``codecatch routes``."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.http_server import Reply
from tests.support.webhooks import virtualsms_v1
from tests.worker.cli.conftest import Run
from tests.worker.support import SLACK_PATH, World, deliver, everything, handle, on_sqlite
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


def test_list_says_how_each_fares(configured: World, run: Run) -> None:
    """What it is, what waits for it, when it last was told, and whether it is."""
    made = configured.connect()
    handle(made, virtualsms_v1(order="ord_1"), virtualsms_v1(order="ord_2"))
    deliver(made, *everything(made, Delivery))
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
    """Each says what it did, and the list shows since when and why."""
    configured.connect()
    assert run("destinations", "disable", "qa").out == "qa was disabled\n"
    assert run("destinations", "disable", "qa").out == "qa is disabled already\n"
    (row,) = [r for r in run("destinations", "list", "--json").json if r["name"] == "qa"]
    assert (row["state"], row["reason"]) == ("disabled", "disabled by an operator")
    assert row["since"] is not None
    assert run("destinations", "enable", "qa").out == "qa was enabled\n"
    assert run("destinations", "enable", "qa").out == "qa is enabled already\n"


def test_a_test_message_shows_no_more_than_a_code_would(
    configured: World, run: Run, tmp_path: Path
) -> None:
    """A destination that must not see codes sees none of a test's either."""
    (tmp_path / "ours.toml").write_text(FILE.replace('fallback = "here"', 'reveal = "masked"'))
    configured.connect()
    assert run("destinations", "test", "qa").code == 0
    (sent,) = configured.sent_to()
    assert "12••••" in sent["text"]
    assert "123456" not in str(sent)


@pytest.mark.parametrize("verb", ["test", "enable", "disable"])
def test_an_unknown_name_is_wrong_usage(configured: World, run: Run, verb: str) -> None:
    """The names that there are are said."""
    configured.connect()
    answer = run("destinations", verb, "aq")
    assert answer.code == 2
    assert "no destination is called aq: here, qa" in " ".join(answer.err.split())


def test_a_test_message_is_sent_now(configured: World, run: Run) -> None:
    """One message that says it is a test, through the destination itself."""
    configured.connect()
    assert run("destinations", "test", "qa").out == "qa took a test message\n"
    (sent,) = configured.sent_to()
    assert "test" in sent["text"]


def test_a_test_that_fails_says_why(configured: World, run: Run) -> None:
    """Exit code 1, the reason in words, and nothing of the URL."""
    configured.connect()
    configured.slack.once("POST", SLACK_PATH, Reply(status=404, body=b"no_service"))
    answer = run("destinations", "test", "qa")
    assert (answer.code, answer.out) == (1, "")
    assert "qa: no_service" in answer.err
    assert SLACK_PATH not in answer.err


def test_routes_test_shows_the_way_of_an_example(configured: World, run: Run) -> None:
    """The destinations, and the line of each route that is taken."""
    configured.connect()
    taken = run("routes", "test", "--service", "telegram", "--json").json
    assert taken["destinations"] == ["qa"]
    assert taken["by"] == [{"line": 13, "match": "service telegram", "to": ["qa"], "stop": False}]
    assert run("routes", "test", "--service", "google", "--json").json["destinations"] == []
    assert "- qa" in run("routes", "test", "--service", "telegram").out


def test_routes_test_without_routes(world: World, run: Run) -> None:
    """Codes go everywhere, and that is said."""
    world.connect(slack=True)
    answer = run("routes", "test", "--json")
    assert answer.json["destinations"] == ["slack"]
    assert "there are no routes" in answer.err


def test_doctor_knows_the_file(
    configured: World, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Destinations with their kinds, routes, those that no route reaches, and idle variables."""
    configured.connect()
    monkeypatch.setenv("SMTP_URL", "smtp://mail.example.com")
    said = run("doctor").out
    assert "qa (slack), here (console), from" in said
    assert "1 route to qa" in said
    assert "SMTP_URL is not used" in said
    assert "no route leads to here" not in said
    assert "line 13: service telegram → qa" in said


@on_sqlite
def test_doctor_sees_through_names_that_are_alike(
    configured: World, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A variable is used where a destination names it, not where the file mentions it."""
    configured.connect()
    monkeypatch.setenv("SMTP_URL", "smtp://mail.example.com")
    monkeypatch.setenv("SLACK_WEBHOOK_URL", f"{configured.slack.url}{SLACK_PATH}")
    text = "# not SMTP_URL\n" + FILE.replace("QA_SLACK_URL", "SLACK_WEBHOOK_URL")
    (tmp_path / "ours.toml").write_text(text)
    said = run("doctor").out
    assert "SMTP_URL is not used" in said
    assert "SLACK_WEBHOOK_URL is not used" not in said


@on_sqlite
def test_doctor_warns_of_codes_that_wait_until_the_morning(
    configured: World, run: Run, tmp_path: Path
) -> None:
    """Quiet hours without a fallback are told; with one they are not."""
    configured.connect()
    quiet = 'quiet_hours = { from = "22:00", to = "07:00" }\n'
    text = FILE.replace('fallback = "here"\n', f'fallback = "here"\n{quiet}')
    (tmp_path / "ours.toml").write_text(text)
    assert "codes wait until they are over" not in run("doctor").out
    (tmp_path / "ours.toml").write_text(FILE.replace('fallback = "here"\n', quiet))
    assert "qa has quiet hours and no fallback: codes wait" in run("doctor").out


def test_doctor_says_what_is_wrong_with_the_file(
    configured: World, run: Run, tmp_path: Path
) -> None:
    """The line of the start, and the verdict that goes with it."""
    configured.connect()
    (tmp_path / "ours.toml").write_text(FILE.replace("fallback", "falback"))
    answer = run("doctor")
    assert answer.code == 1
    assert "ours.toml:6: falback: nothing is called so here: is 'fallback' meant?" in answer.out
