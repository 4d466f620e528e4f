"""The runtime of a worker process, created from the environment."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from receiver.errors import ConfigurationError
from receiver.vault.sealing import generate_key
from tests.support.stores import ENCRYPTION_KEYS
from tests.worker.support import VIRTUALSMS_KEY, World, on_sqlite
from worker.runtime.runtime import process

pytestmark = on_sqlite
SLACK = "https://hooks.slack.com/services/T0/B0/secret"


@pytest.mark.parametrize("verify_back", ["auto", "on", "off"])
def test_everything_that_is_configured_exists(world: World, verify_back: str) -> None:
    """Providers with a key, destinations with an address, and the policies that follow."""
    runtime = world.connect(
        virtualsms=True, daisysim=True, slack=True, mail=True, DAISYSIM_VERIFY_BACK=verify_back
    )

    assert set(runtime.integrations.apis) == {"virtualsms", "daisysim"}
    assert set(runtime.integrations.destinations) == {"slack", "email"}
    assert runtime.policy.confirming == {"virtualsms"}
    assert runtime.policy.verifying == ({"daisysim"} if verify_back != "off" else set())
    assert runtime.policy.routing.operators() == ["email", "slack"]


def test_providers_and_destinations_are_optional(world: World) -> None:
    """A database and a broker are enough."""
    runtime = world.connect()

    assert (runtime.integrations.apis, runtime.integrations.destinations) == ({}, {})
    assert (runtime.policy.confirming, runtime.policy.verifying) == (frozenset(), frozenset())


def test_limits_come_from_the_environment_or_the_provider(world: World) -> None:
    """Each class of calls has a limit."""
    runtime = world.connect(virtualsms=True, daisysim=True, DAISYSIM_RATE_LIMITS="check=5")

    assert runtime.integrations.apis["virtualsms"].limit("calls") == 60
    assert runtime.integrations.apis["daisysim"].limit("check") == 5
    assert runtime.integrations.apis["daisysim"].limit("cancel") == 10


MAIL = {
    "SMTP_URL": "smtp://localhost:25",
    "EMAIL_FROM": "a@example.com",
    "EMAIL_TO": "b@example.com",
}
# Variables, and a pattern of the message.
REFUSED: list[tuple[dict[str, str], str]] = [
    ({"DATABASE_URL": "mysql://localhost/codecatch"}, "DATABASE_URL: "),
    ({"DATABASE_URL": "sqlite:///{folder}/new.db"}, ".*codecatch migrate"),
    ({"ENCRYPTION_KEYS": "c2hvcnQ="}, "ENCRYPTION_KEYS: "),
    ({"ENCRYPTION_KEYS": generate_key()}, "ENCRYPTION_KEYS: cannot open"),
    ({"REDIS_URL": "localhost:6379"}, "REDIS_URL: "),
    *(({name: ""}, f"{name}: is required") for name in ("DATABASE_URL", "ENCRYPTION_KEYS")),
    ({"REDIS_URL": ""}, "REDIS_URL: is required"),
    ({"VIRTUALSMS_API_URL": "virtualsms.io"}, "VIRTUALSMS_API_URL: "),
    # The settings accept this host, and the client does not.
    ({"VIRTUALSMS_API_URL": "https://a..b\u200d.example/\u200d"}, ".*VIRTUALSMS_API_URL"),
    ({"VIRTUALSMS_API_KEY": "with spaces and secret"}, "VIRTUALSMS_API_KEY: "),
    ({"DAISYSIM_RATE_LIMITS": "check"}, "DAISYSIM_RATE_LIMITS: "),
    ({"DAISYSIM_RATE_LIMITS": "chek=5"}, "DAISYSIM_RATE_LIMITS: "),
    ({"VIRTUALSMS_VERIFY_BACK": "on"}, "VIRTUALSMS_VERIFY_BACK: "),
    ({"DAISYSIM_VERIFY_BACK": "maybe"}, "DAISYSIM_VERIFY_BACK: "),
    # If it is switched on explicitly, it must not be off silently.
    (
        {"DAISYSIM_VERIFY_BACK": "on", "DAISYSIM_API_KEY": ""},
        "DAISYSIM_VERIFY_BACK: .*DAISYSIM_API_KEY",
    ),
    ({"VIRTUALSMS_WEBHOOK_CARE": "on"}, "VIRTUALSMS_WEBHOOK_CARE: .*_API_KEY"),
    (
        {"DAISYSIM_WEBHOOK_CARE": "on", "DAISYSIM_API_KEY": "a-key"},
        "DAISYSIM_WEBHOOK_CARE: must be off",
    ),
    ({"SMTP_URL": "mail.example.com"}, "SMTP_URL: "),
    ({**MAIL, "EMAIL_FROM": ""}, "SMTP_URL: .*EMAIL_FROM"),
    ({**MAIL, "EMAIL_TO": ""}, "SMTP_URL: .*EMAIL_TO"),
    ({**MAIL, "EMAIL_TO": "nobody"}, ".*EMAIL_TO"),
    *(
        ({"DESTINATION_ALLOWED_HOSTS": hosts}, "DESTINATION_ALLOWED_HOSTS: ")
        for hosts in ("https://example.com", "example.com,me@example.com")
    ),
    # A URL that would be refused when used stops the process at its start.
    *(
        ({"SLACK_WEBHOOK_URL": url, "DESTINATION_ALLOWED_HOSTS": hosts}, "SLACK_WEBHOOK_URL: ")
        for url, hosts in (
            ("slack.com/secret", ""),
            ("https:///services/secret", ""),
            ("https://169.254.169.254/secret", ""),
            ("https://hooks.slack.com.example/secret", ""),
            ("http://hooks.slack.com/secret", ""),
            ("http://10.0.0.1:8080/secret", "10.0.0.1:9090"),
            ("https://evil.example/secret", "example,chat.example"),
        )
    ),
]


@pytest.mark.parametrize(("variables", "pattern"), REFUSED)
def test_each_bad_variable_is_named(
    world: World, tmp_path: Path, variables: dict[str, str], pattern: str
) -> None:
    """In one line, without its value; an empty variable counts as missing."""
    values: dict[str, Any] = {n: v.format(folder=tmp_path) for n, v in variables.items()}
    with pytest.raises(ConfigurationError) as refused:
        world.connect(**values)
    message = str(refused.value)

    assert re.match(pattern, message)
    assert "secret" not in message
    assert "\n" not in message


def test_a_rotated_key_still_opens_the_database(world: World) -> None:
    """The first key seals, any key opens."""
    runtime = world.connect(ENCRYPTION_KEYS=f"{generate_key()},{ENCRYPTION_KEYS}")
    assert runtime.vault.digest("code", "1234") == world.store.vault.digest("code", "1234")


@pytest.mark.parametrize(
    ("url", "hosts"),
    [
        (SLACK, ""),
        ("https://HOOKS.slack.com/services/T0/B0/secret", ""),
        ("https://hooks.slack.com:443/services/T0/B0/secret", ""),
        ("http://10.0.0.1:8080/secret", "10.0.0.1"),
        ("http://10.0.0.1:8080/secret", "10.0.0.1:8080"),
        ("https://Chat.example/secret", "chat.example"),
    ],
)
def test_slack_may_be_reached_at_its_own_host_or_a_listed_one(
    world: World, url: str, hosts: str
) -> None:
    """Any other host must be listed."""
    runtime = world.connect(SLACK_WEBHOOK_URL=url, DESTINATION_ALLOWED_HOSTS=hosts)
    assert set(runtime.integrations.destinations) == {"slack"}


def test_nothing_secret_shows(world: World) -> None:
    """A runtime in a traceback does not contain the keys."""
    runtime = world.connect(virtualsms=True, slack=True)
    assert VIRTUALSMS_KEY not in repr(runtime)
    assert "made-up-secret" not in repr(runtime)


def test_a_process_has_one_runtime_until_it_is_closed(world: World) -> None:
    """It is created when first used, and again after it was closed."""
    world.connect()
    first = process.get()
    assert process.get() is first
    process.close()
    second = process.get()
    assert second is not first
    process.close()
    process.close()
