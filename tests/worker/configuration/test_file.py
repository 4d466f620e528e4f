"""The configuration file: what it declares, and the errors for an invalid one."""

from __future__ import annotations

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
ROUTE = GOOD + '[[routes]]\nto = ["qa"]\n'
SLACK_URL = "https://hooks.slack.com/services/T0/B0/made-up-secret"


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The path that CODECATCH_CONFIG names; a test writes the file."""
    path = tmp_path / "ours.toml"
    monkeypatch.setenv("CODECATCH_CONFIG", str(path))
    monkeypatch.setenv("QA_SLACK_URL", SLACK_URL)
    return path


def read(file: Path, text: str) -> Configuration:
    """Write the file and read the configuration."""
    file.write_text(text)
    return configuration_file.read()


def refusal(file: Path, text: str) -> str:
    """The error for a file with this text, without the file's name."""
    file.write_text(text)
    with pytest.raises(ConfigurationError) as refused:
        connect_integrations().close()
    message = str(refused.value)
    assert message.startswith(f"{file}:")
    assert "made-up-secret" not in message
    assert "\n" not in message
    return message.removeprefix(f"{file}:").strip()


def test_each_destination_has_its_class_options_and_policy(file: Path) -> None:
    """Its kind supplies the defaults."""
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
    ).destinations
    qa, here = declared
    assert (qa.kind, here.kind) == (Slack, Console)
    assert (qa.policy.per_second, qa.policy.burst) == (1.0, 3)
    assert (here.policy.per_second, here.policy.burst) == (5.0, 2)
    assert (qa.policy.reveal, here.policy.reveal) == ("masked", "full")
    assert (qa.policy.fallback, qa.policy.on_unknown, qa.policy.coalesce) == ("here", "hold", False)
    assert qa.policy.quiet_hours == QuietHours(time(22), time(7), ZoneInfo("Europe/London"))
    assert (qa.templates, here.templates) == (file.parent / "words", None)


def test_destinations_are_built_from_the_file(file: Path) -> None:
    """Their names come from the file, and their URLs from the variables that it names."""
    read(file, GOOD)
    integrations = connect_integrations()
    assert {name: type(each) for name, each in integrations.destinations.items()} == {
        "qa": Slack,
        "here": Console,
    }
    assert set(integrations.policies) == {"qa", "here"}
    integrations.close()


def test_routes_apply_in_order(file: Path) -> None:
    """Every route that matches adds its destinations, up to the first with stop."""
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
    stopped = Subject(type="sms.received", provider="virtualsms", service="WhatsApp", country="gb")
    assert routing.of(stopped) == ["qa"]
    other = Subject(type="sms.received", provider="virtualsms", service="google", country="GB")
    assert routing.of(other) == ["here", "qa"]
    assert [route.key for route in routing.matching(stopped)] == ["routes[0]"]
    assert routing.of(Subject(type="sms.received", provider="daisysim")) == []
    assert routing.of(Subject(type="order.expired", provider="virtualsms")) == []


def test_operator_notices_go_to_the_listed_destinations(file: Path) -> None:
    """Without the table they go to every destination; an empty list means none."""
    assert read(file, GOOD).routing.operators() == ["here", "qa"]
    assert read(file, GOOD + '[operators]\nto = ["here"]\n').routing.operators() == ["here"]
    assert read(file, GOOD + "[operators]\nto = []\n").routing.operators() == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[[destinations]\n", "1: invalid TOML: expected ']]' at the end"),
        ("a = 1\n", "unknown key 'a'; choose one of destinations, routes"),
        ("destination = []\n", "unknown key 'destination'; did you mean 'destinations'?"),
        ('[[destinations]]\nkind = "console"\n', "destinations[0].name: is required"),
        (
            '[[destinations]]\nname = "a b"\nkind = "console"\n',
            "destinations[0].name: must be 1 to 64 letters",
        ),
        (
            '\n[[destinations]]\nname = "a"\nkind = "slak"\n',
            "destinations[0].kind: unknown kind 'slak'; did you mean",
        ),
        (
            GOOD + '[[destinations]]\nname = "qa"\nkind = "console"\n',
            "destinations[2].name: two destinations",
        ),
        (
            GOOD.replace("url_env", "url_envv"),
            "destinations[0]: unknown key 'url_envv'; did you mean 'url_env'?",
        ),
        (GOOD + "colour = 1\n", "destinations[1]: unknown key 'colour'; choose one of "),
        (GOOD + "burts = 3\n", "destinations[1]: unknown key 'burts'; did you mean 'burst'?"),
        (GOOD + "per_second = 0\n", "destinations[1].per_second: must be a number greater than 0"),
        (GOOD + 'per_second = "1"\n', "destinations[1].per_second: must be a number"),
        (GOOD + 'reveal = "some"\n', "destinations[1].reveal: must be 'full', 'masked' or 'none'"),
        (GOOD + 'coalesce = "no"\n', "destinations[1].coalesce: must be true or false"),
        (GOOD + 'on_unknown = "hope"\n', "destinations[1].on_unknown: must be 'repeat' or 'hold'"),
        (GOOD + 'fallback = "mial"\n', "destinations[1].fallback: unknown destination 'mial'"),
        (
            GOOD + 'fallback = "here"\n',
            "destinations[1].fallback: the fallbacks form a loop through 'here'",
        ),
        (
            GOOD + 'quiet_hours = { from = "22", to = "07:00" }\n',
            "destinations[1].quiet_hours.from: must be a time of day",
        ),
        (
            GOOD + 'quiet_hours = { from = "22:00", to = "07:00", zone = "Mars" }\n',
            "destinations[1].quiet_hours.zone: must be a time zone such as Europe/London",
        ),
        (
            GOOD + '[[routes]]\nto = ["qa", "hree"]\n',
            "routes[0].to: unknown destination 'hree'; did you mean 'here'",
        ),
        (GOOD + "[[routes]]\nto = []\n", "routes[0].to: must have at least one item"),
        (
            ROUTE + 'match = { sevice = "x" }\n',
            "routes[0].match: unknown key 'sevice'; did you mean 'serv",
        ),
        (ROUTE + "match = { phone = [] }\n", "routes[0].match.phone: must have at least one item"),
        (ROUTE + "stop = 1\n", "routes[0].stop: must be true or false"),
        (GOOD + '[operators]\nto = ["us"]\n', "operators.to: unknown destination 'us'"),
        (
            '[[destinations]]\nname = "m"\nkind = "slack"\nurl_env = "NOT_SET"\n',
            "destinations[0].url_env: the variable NOT_SET is not set",
        ),
        (
            '[[destinations]]\nname = "m"\nkind = "console"\ntemplates = "/nowhere"\n',
            "destinations[0].templates: /nowhere: not a directory",
        ),
        (GOOD + 'x = "a\n', "10: invalid TOML: illegal character"),
        (GOOD + "x = [\n", "10: invalid TOML: invalid value"),
        (f"a = {'[' * 5000}{']' * 5000}", "too many nested brackets"),
        (f"# {'x' * 1_000_000}", "must have at most 1,000,000 characters"),
        ("[destinations.qa]\n", "destinations: must be a list: write each as [[destinations"),
        (GOOD + '[routes]\nto = ["qa"]\n', "routes: must be a list: write each as [[routes"),
        (GOOD + '[[routes]]\nto = "qa"\n', "routes[0].to: must be a list, such as ["),
        (GOOD + "burst = 2.5\n", "destinations[1].burst: must be a whole number"),
        (GOOD + "templates = 3\n", "destinations[1].templates: must be a path in quotes"),
        (
            GOOD + 'quiet_hours = "at night"\n',
            "destinations[1].quiet_hours: must be a table, such as { ",
        ),
        (
            GOOD + 'quiet_hours = { from = "07:00", to = "07:00" }\n',
            "destinations[1].quiet_hours: 'from' and 'to' must differ",
        ),
        (
            GOOD + '[destinations.quiet_hours]\nfrom = "22:00"\nto = "07:00"\nzon = "UTC"\n',
            "destinations[1].quiet_hours: unknown key 'zon'; did you mean 'zone'?",
        ),
        (
            ROUTE + '[routes.match]\nservise = "x"\n',
            "routes[0].match: unknown key 'servise'; did you mean 'service'?",
        ),
        (
            ROUTE + 'match = { type = "sms.recieved" }\n',
            "routes[0].match.type: unknown value 'sms.recieved'; did you mean 'sms.rece",
        ),
        (
            ROUTE + 'match = { provider = ["daisysim", "virtul*"] }\n',
            "routes[0].match.provider: unknown value 'virtul*'; did you mean 'virtualsms'?",
        ),
        (
            ROUTE + 'match = { state = "recieved" }\n',
            "routes[0].match.state: unknown value 'recieved'; did you mean 'received'?",
        ),
        (
            GOOD + '"col\\u001b[31mour" = 1\n',
            "destinations[1]: unknown key 'colour'; choose one of ",
        ),
        (ROUTE + 'match = { phone = "" }\n', "routes[0].match.phone[0]: must not be empty"),
    ],
)
def test_an_error_names_the_key(file: Path, text: str, message: str) -> None:
    """One line: the file, the key in it, what is wrong, and what to write."""
    assert refusal(file, text).startswith(message)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (f'url_env = "{SLACK_URL}"', "destinations[0].url_env: must be the name of a variable"),
        (
            'url_env = "whsec_made-up-secret"',
            "destinations[0].url_env: must be the name of a variable",
        ),
        (
            'url_env = "madeUpSecret0123456789"',
            "destinations[0].url_env: must be the name of a variable",
        ),
        (
            f'url = "{SLACK_URL}"',
            "destinations[0].url: set the value in an environment variable and",
        ),
    ],
)
def test_a_secret_in_the_file_is_not_repeated(file: Path, line: str, message: str) -> None:
    """The error for a value in place of its variable's name does not contain the value."""
    refused = refusal(file, f'[[destinations]]\nname = "qa"\nkind = "slack"\n{line}\n')
    assert refused.startswith(message)
    assert "madeUpSecret" not in refused


def test_known_values_match_in_any_case(file: Path) -> None:
    """A glob or a capital letter is valid if it matches a known value."""
    match = '{ type = ["SMS.*", "balance.?ow"], provider = "Virtual*", state = "[cr]*" }'
    routing = read(file, GOOD + f'[[routes]]\nto = ["qa"]\nmatch = {match}\n').routing
    subject = Subject(type="sms.received", provider="virtualsms", order_state="received")
    assert routing.of(subject) == ["qa"]


def test_a_byte_order_mark_is_ignored(file: Path) -> None:
    """Some editors write one."""
    assert len(read(file, "\ufeff" + GOOD).destinations) == 2


def test_a_missing_file_is_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A configured path without a file is not an empty configuration."""
    monkeypatch.setenv("CODECATCH_CONFIG", str(tmp_path / "missing.toml"))
    with pytest.raises(ConfigurationError, match=r"CODECATCH_CONFIG: cannot read .*missing\.toml"):
        configuration_file.read()


def test_a_file_that_is_not_utf_8_is_an_error(file: Path) -> None:
    """The message says so."""
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigurationError, match="must be UTF-8"):
        configuration_file.read()


def test_the_default_file_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without CODECATCH_CONFIG, ./codecatch.toml replaces the variables."""
    (tmp_path / "codecatch.toml").write_text('[[destinations]]\nname = "a"\nkind = "console"\n')
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SLACK_WEBHOOK_URL", SLACK_URL)
    assert [each.policy.name for each in configuration_file.read().destinations] == ["a"]


def test_the_example_works(monkeypatch: pytest.MonkeyPatch) -> None:
    """The example for users is valid once its variables are set."""
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
    """In the zone's local time, across midnight and daylight saving time."""
    assert hours.until(now) == until
