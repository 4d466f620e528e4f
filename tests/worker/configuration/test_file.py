"""The configuration file: what it declares, and what is said of one that cannot work."""

from __future__ import annotations

import re
from datetime import UTC, datetime, time
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from receiver.errors import ConfigurationError
from tests.test_import_rules import ROOT
from worker.configuration import file as configuration_file
from worker.configuration.destination_policy import QuietHours
from worker.configuration.file import Configuration
from worker.configuration.routing import Subject
from worker.destinations.console import Console
from worker.destinations.slack import Slack
from worker.runtime.integrations import connect_integrations

GOOD = """
[[destinations]]
name = "qa"
kind = "slack"
url_env = "QA_SLACK_URL"

[[destinations]]
name = "here"
kind = "console"
"""
SLACK_URL = "https://hooks.slack.com/services/T0/B0/made-up-secret"


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that is named by the environment; a test writes it."""
    path = tmp_path / "ours.toml"
    monkeypatch.setenv("CODECATCH_CONFIG", str(path))
    monkeypatch.setenv("QA_SLACK_URL", SLACK_URL)
    return path


def read(file: Path, text: str) -> Configuration:
    """What the file declares with this text in it."""
    file.write_text(text)
    return configuration_file.read()


def refusal(file: Path, text: str) -> str:
    """What is said of a file that cannot work, without the file's name."""
    file.write_text(text)
    with pytest.raises(ConfigurationError) as refused:
        connect_integrations().close()
    said = str(refused.value)
    assert said.startswith(f"{file}:")
    assert "made-up-secret" not in said
    assert "\n" not in said
    return said.removeprefix(f"{file}:").strip()


def test_what_is_declared_is_there(file: Path) -> None:
    """Each destination with its class, options and choices, and those of its kind by default."""
    declared = read(
        file,
        """
[[destinations]]
name = "qa"
kind = "slack"
url_env = "QA_SLACK_URL"
reveal = "masked"
fallback = "here"
on_unknown = "hold"
coalesce = false
quiet_hours = { from = "22:00", to = "07:00", zone = "Europe/London" }
templates = "words"

[[destinations]]
name = "here"
kind = "console"
per_second = 5
burst = 2
""",
    ).declared
    qa, here = declared
    assert (qa.kind, here.kind) == (Slack, Console)
    assert (qa.policy.per_second, qa.policy.burst) == (1.0, 3)
    assert (here.policy.per_second, here.policy.burst) == (5.0, 2)
    assert (qa.policy.reveal, here.policy.reveal) == ("masked", "full")
    assert (qa.policy.fallback, qa.policy.on_unknown, qa.policy.coalesce) == ("here", "hold", False)
    assert qa.policy.quiet_hours == QuietHours(time(22), time(7), ZoneInfo("Europe/London"))
    assert (qa.templates, here.templates) == (file.parent / "words", None)


def test_destinations_are_made_of_it(file: Path) -> None:
    """The names are those of the file, and the URL is the named variable's."""
    read(file, GOOD)
    integrations = connect_integrations()
    assert {name: type(each) for name, each in integrations.destinations.items()} == {
        "qa": Slack,
        "here": Console,
    }
    assert set(integrations.policies) == {"qa", "here"}
    integrations.close()


def test_routes_decide_in_their_order(file: Path) -> None:
    """All that fit are taken, each destination once, until one says stop."""
    routing = read(
        file,
        GOOD
        + """
[[routes]]
match = { service = ["telegram", "whats*"], country = "GB" }
to = ["qa"]
stop = true

[[routes]]
match = { provider = "virtualsms" }
to = ["here", "qa"]
""",
    ).routing
    told = Subject(type="sms.received", provider="virtualsms", service="WhatsApp", country="gb")
    assert routing.of(told) == ["qa"]
    other = Subject(type="sms.received", provider="virtualsms", service="google", country="GB")
    assert routing.of(other) == ["here", "qa"]
    assert [route.line for route in routing.matching(told)] == [11]
    assert routing.of(Subject(type="sms.received", provider="daisysim")) == []
    assert routing.of(Subject(type="order.expired", provider="virtualsms")) == []


def test_operators_are_those_named(file: Path) -> None:
    """Without a table every destination hears of trouble; with one, those in it, or nobody."""
    assert read(file, GOOD).routing.operators() == ["here", "qa"]
    assert read(file, GOOD + '[operators]\nto = ["here"]\n').routing.operators() == ["here"]
    assert read(file, GOOD + "[operators]\nto = []\n").routing.operators() == []


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[[destinations]\n", r"1: is not TOML: expected ']]' at the end"),
        ("a = 1\n", r"1: a: nothing is called so here: choose one of destinations, routes"),
        ("destination = []\n", r"1: destination: nothing is called so here: is 'destinations' m"),
        ('[[destinations]]\nkind = "console"\n', r"1: name: is required"),
        ('[[destinations]]\nname = "a b"\nkind = "console"\n', r"2: name: wants letters, digits"),
        ('\n[[destinations]]\nname = "a"\nkind = "slak"\n', r"4: kind: no destination is of the"),
        (GOOD + '[[destinations]]\nname = "qa"\nkind = "console"\n', r"11: name: two destinations"),
        (
            GOOD.replace("url_env", "url_envv"),
            r"5: url_envv: nothing is called so here: is 'url_env' meant",
        ),
        (GOOD + "colour = 1\n", r"10: colour: nothing is called so here"),
        (GOOD + "burts = 3\n", r"10: burts: nothing is called so here: is 'burst' meant\?"),
        (GOOD + "per_second = 0\n", r"10: per_second: wants a number greater than 0"),
        (GOOD + 'per_second = "1"\n', r"10: per_second: wants a number"),
        (GOOD + 'reveal = "some"\n', r"10: reveal: wants 'full', 'masked' or 'none'"),
        (GOOD + 'coalesce = "no"\n', r"10: coalesce: wants true or false"),
        (GOOD + 'on_unknown = "hope"\n', r"10: on_unknown: wants 'repeat' or 'hold'"),
        (GOOD + 'fallback = "mial"\n', r"10: fallback: no destination is called 'mial'"),
        (GOOD + 'fallback = "here"\n', r"10: fallback: 'here' would be its own fallback"),
        (GOOD + 'quiet_hours = { from = "22", to = "07:00" }\n', r"10: from: wants a time of day"),
        (
            GOOD + 'quiet_hours = { from = "22:00", to = "07:00", zone = "Mars" }\n',
            r"10: zone: wants a time zone like Europe/London",
        ),
        (
            GOOD + '[[routes]]\nto = ["qa", "hree"]\n',
            r"11: to: no destination is called 'hree': is 'here'",
        ),
        (GOOD + "[[routes]]\nto = []\n", r"11: to: wants one at least"),
        (
            GOOD + '[[routes]]\nto = ["qa"]\nmatch = { sevice = "x" }\n',
            r"12: sevice: nothing .*'serv",
        ),
        (
            GOOD + '[[routes]]\nto = ["qa"]\nmatch = { phone = [] }\n',
            r"12: phone: wants one at least",
        ),
        (GOOD + '[[routes]]\nto = ["qa"]\nstop = 1\n', r"12: stop: wants true or false"),
        (GOOD + '[operators]\nto = ["us"]\n', r"11: to: no destination is called 'us'"),
        (
            '[[destinations]]\nname = "m"\nkind = "slack"\nurl_env = "NOT_SET"\n',
            r"4: m: url_env: wants the variable NOT_SET to be set",
        ),
        (
            '[[destinations]]\nname = "m"\nkind = "console"\ntemplates = "nowhere"\n',
            r"4: templates: .*nowhere: wants a directory",
        ),
        (GOOD + 'x = "a\n', r"10: is not TOML: illegal character"),
        (GOOD + "x = [\n", r"10: is not TOML: invalid value"),
        (f"a = {'[' * 5000}{']' * 5000}", r"is nested too deeply"),
        (f"# {'x' * 1_000_000}", r"wants a million characters at most"),
        ("[destinations.qa]\n", r"1: destinations: wants double brackets .*: \[\[destinations"),
        (GOOD + '[routes]\nto = ["qa"]\n', r"10: routes: wants double brackets .*: \[\[routes"),
        (GOOD + '[[routes]]\nto = "qa"\n', r"11: to: wants a list, like \["),
        (GOOD + "burst = 2.5\n", r"10: burst: wants a whole number"),
        (GOOD + "templates = 3\n", r"10: templates: wants a path in quotes"),
        (GOOD + 'quiet_hours = "at night"\n', r"10: quiet_hours: wants a table, like { "),
        (
            GOOD + 'quiet_hours = { from = "07:00", to = "07:00" }\n',
            r"10: quiet_hours: wants an end that is not the start",
        ),
        (
            GOOD + '[destinations.quiet_hours]\nfrom = "22:00"\nto = "07:00"\nzon = "UTC"\n',
            r"13: zon: nothing is called so here: is 'zone' meant\?",
        ),
        (
            GOOD + '[[routes]]\nto = ["qa"]\n[routes.match]\nservise = "x"\n',
            r"13: servise: nothing is called so here: is 'service' meant\?",
        ),
        (
            GOOD + '[[routes]]\nto = ["qa"]\nmatch = { type = "sms.recieved" }\n',
            r"12: type: wants what there is, not 'sms.recieved': is 'sms.received' meant\?",
        ),
        (
            GOOD + '[[routes]]\nto = ["qa"]\nmatch = { provider = ["daisysim", "virtul*"] }\n',
            r"12: provider: wants what there is, not 'virtul\*': is 'virtualsms' meant\?",
        ),
        (
            GOOD + '[[routes]]\nto = ["qa"]\nmatch = { state = "recieved" }\n',
            r"12: state: wants what there is, not 'recieved': is 'received' meant\?",
        ),
        (GOOD + '"col\\u001b[31mour" = 1\n', r"10: colour: nothing is called so here"),
    ],
)
def test_a_file_that_cannot_work_is_said_with_its_line(file: Path, text: str, said: str) -> None:
    """One line: the file, the line in it, what is wrong, and what is wanted."""
    assert re.match(said, refusal(file, text)), refusal(file, text)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (f'url_env = "{SLACK_URL}"', "4: url_env: wants the name of a variable"),
        ('url_env = "whsec_made-up-secret"', "4: url_env: wants the name of a variable"),
        ('url_env = "madeUpSecret0123456789"', "4: url_env: wants the name of a variable"),
        (f'url = "{SLACK_URL}"', "4: url: wants to be in a variable of the environment: url_env"),
    ],
)
def test_a_secret_in_the_file_is_not_repeated(file: Path, line: str, said: str) -> None:
    """Whoever writes the value where its variable's name should be is told so, without it."""
    refused = refusal(file, f'[[destinations]]\nname = "qa"\nkind = "slack"\n{line}\n')
    assert refused.startswith(said)
    assert "madeUpSecret" not in refused


def test_names_of_what_there_is_are_taken_in_any_case(file: Path) -> None:
    """A glob or a capital is no mistake where something fits it."""
    match = '{ type = ["SMS.*", "balance.?ow"], provider = "Virtual*", state = "[cr]*" }'
    routing = read(file, GOOD + f'[[routes]]\nto = ["qa"]\nmatch = {match}\n').routing
    told = Subject(type="sms.received", provider="virtualsms", order_state="received")
    assert routing.of(told) == ["qa"]


def test_a_byte_order_mark_is_no_mistake(file: Path) -> None:
    """Some editors write one."""
    assert len(read(file, "\ufeff" + GOOD).declared) == 2


def test_a_file_that_is_not_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A name that leads nowhere is a mistake, not an empty configuration."""
    monkeypatch.setenv("CODECATCH_CONFIG", str(tmp_path / "missing.toml"))
    with pytest.raises(ConfigurationError, match=r"CODECATCH_CONFIG: cannot read .*missing\.toml"):
        configuration_file.read()


def test_a_file_that_is_no_text(file: Path) -> None:
    """Bytes that are no UTF-8 are said so."""
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigurationError, match="wants UTF-8"):
        configuration_file.read()


def test_the_usual_file_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a name, the working directory's codecatch.toml decides, and no variable does."""
    (tmp_path / "codecatch.toml").write_text('[[destinations]]\nname = "a"\nkind = "console"\n')
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SLACK_WEBHOOK_URL", SLACK_URL)
    assert [each.policy.name for each in configuration_file.read().declared] == ["a"]


def test_the_example_works(monkeypatch: pytest.MonkeyPatch) -> None:
    """What users are given to copy starts, once its variables are set."""
    monkeypatch.setenv("CODECATCH_CONFIG", str(ROOT / "deploy" / "codecatch.toml.example"))
    monkeypatch.setenv("QA_SLACK_URL", SLACK_URL)
    monkeypatch.setenv("SMTP_URL", "smtp://mail.example.com")
    monkeypatch.setenv("CHAT_URL", "discord://123456789012345678/abcdefghijklmnopqrstuvwxyz")
    monkeypatch.setenv("HOOK_URL", "https://hooks.example.com/codes")
    monkeypatch.setenv("HOOK_SECRET", "whsec_" + "c2VjcmV0" * 4)
    monkeypatch.setenv("DESTINATION_ALLOWED_HOSTS", "hooks.example.com")
    integrations = connect_integrations()
    assert set(integrations.destinations) == {"qa", "mail", "chat", "hook"}
    integrations.close()


LONDON = QuietHours(time(22), time(7), ZoneInfo("Europe/London"))


@pytest.mark.parametrize(
    ("hours", "now", "until"),
    [
        (LONDON, datetime(2026, 1, 5, 21, 59, tzinfo=UTC), None),
        (LONDON, datetime(2026, 1, 5, 22, 0, tzinfo=UTC), datetime(2026, 1, 6, 7, tzinfo=UTC)),
        (LONDON, datetime(2026, 1, 6, 6, 59, tzinfo=UTC), datetime(2026, 1, 6, 7, tzinfo=UTC)),
        (LONDON, datetime(2026, 1, 6, 7, 0, tzinfo=UTC), None),
        (LONDON, datetime(2026, 7, 5, 21, 0, tzinfo=UTC), datetime(2026, 7, 6, 6, tzinfo=UTC)),
        (
            QuietHours(time(12), time(13), ZoneInfo("UTC")),
            datetime(2026, 1, 5, 12, 30, tzinfo=UTC),
            datetime(2026, 1, 5, 13, tzinfo=UTC),
        ),
        (
            QuietHours(time(12), time(13), ZoneInfo("UTC")),
            datetime(2026, 1, 5, 11, 59, tzinfo=UTC),
            None,
        ),
    ],
)
def test_quiet_hours_end(hours: QuietHours, now: datetime, until: datetime | None) -> None:
    """By the clocks of the zone, across midnight and summer time."""
    assert hours.until(now) == until
