"""The runtime of a worker process, created from the environment."""

from __future__ import annotations

from typing import Any

import pytest

from receiver.errors import ConfigurationError
from receiver.vault.sealing import generate_key
from tests.support.stores import ENCRYPTION_KEYS
from tests.worker.support import VIRTUALSMS_KEY, World, on_sqlite
from worker.runtime.runtime import process

pytestmark = on_sqlite
SLACK = "https://hooks.slack.com/services/T0/B0/secret"


def refusal(world: World, **variables: Any) -> str:
    """The error for an invalid environment."""
    with pytest.raises(ConfigurationError) as refused:
        world.connect(**variables)
    return str(refused.value)


def test_everything_that_is_configured_exists(world: World) -> None:
    """Providers with a key, destinations with an address, and the policies that follow."""
    runtime = world.connect(virtualsms=True, daisysim=True, slack=True, mail=True)

    assert set(runtime.integrations.apis) == {"virtualsms", "daisysim"}
    assert set(runtime.integrations.destinations) == {"slack", "email"}
    assert runtime.policy.confirming == {"virtualsms"}
    assert runtime.policy.verifying == {"daisysim"}
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


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("DATABASE_URL", "mysql://localhost/codecatch"),
        ("ENCRYPTION_KEYS", "c2hvcnQ="),
        ("REDIS_URL", "localhost:6379"),
        ("VIRTUALSMS_API_URL", "virtualsms.io"),
        ("VIRTUALSMS_API_KEY", "with spaces and secret"),
        ("DAISYSIM_RATE_LIMITS", "check"),
        ("DAISYSIM_RATE_LIMITS", "chek=5"),
        ("VIRTUALSMS_VERIFY_BACK", "on"),
        ("DAISYSIM_VERIFY_BACK", "maybe"),
        ("SLACK_WEBHOOK_URL", "slack.com/secret"),
        ("SLACK_WEBHOOK_URL", "https:///services/secret"),
        ("SMTP_URL", "mail.example.com"),
        ("DESTINATION_ALLOWED_HOSTS", "https://example.com"),
        ("DESTINATION_ALLOWED_HOSTS", "example.com,me@example.com"),
    ],
)
def test_each_bad_variable_is_named(world: World, variable: str, value: str) -> None:
    """In one line, without its value."""
    message = refusal(world, **{variable: value})

    assert message.startswith(f"{variable}: ")
    assert "secret" not in message
    assert "\n" not in message


@pytest.mark.parametrize("variable", ["DATABASE_URL", "ENCRYPTION_KEYS", "REDIS_URL"])
def test_each_missing_variable_is_named(world: World, variable: str) -> None:
    """An empty variable counts as missing."""
    assert refusal(world, **{variable: ""}).startswith(f"{variable}: is required")


def test_another_installations_keys_do_not_open_the_database(world: World) -> None:
    """The message names the variable, and no connection stays open."""
    assert refusal(world, ENCRYPTION_KEYS=generate_key()).startswith("ENCRYPTION_KEYS: cannot open")


def test_a_rotated_key_still_opens_the_database(world: World) -> None:
    """The first key seals, any key opens."""
    runtime = world.connect(ENCRYPTION_KEYS=f"{generate_key()},{ENCRYPTION_KEYS}")
    assert runtime.vault.digest("code", "1234") == world.store.vault.digest("code", "1234")


def test_a_database_that_is_not_prepared(
    world: World, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """The message names the command to run."""
    empty = tmp_path_factory.mktemp("empty") / "new.db"
    assert "codecatch migrate" in refusal(world, DATABASE_URL=f"sqlite:///{empty}")


def test_verification_requires_a_key(world: World) -> None:
    """If it is switched on explicitly, it must not be off silently."""
    message = refusal(world, DAISYSIM_VERIFY_BACK="on")
    assert message.startswith("DAISYSIM_VERIFY_BACK: ")
    assert "DAISYSIM_API_KEY" in message


@pytest.mark.parametrize("verify_back", ["auto", "on", "off"])
def test_verification_can_be_switched_off(world: World, verify_back: str) -> None:
    """With a key it is on unless it is switched off."""
    runtime = world.connect(daisysim=True, DAISYSIM_VERIFY_BACK=verify_back)
    assert runtime.policy.verifies("daisysim") is (verify_back != "off")


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


@pytest.mark.parametrize(
    ("url", "hosts"),
    [
        ("https://169.254.169.254/secret", ""),
        ("https://hooks.slack.com.example/secret", ""),
        ("http://hooks.slack.com/secret", ""),
        ("http://10.0.0.1:8080/secret", "10.0.0.1:9090"),
        ("https://evil.example/secret", "example,chat.example"),
    ],
)
def test_slack_may_not_be_reached_elsewhere(world: World, url: str, hosts: str) -> None:
    """A URL that would be refused when used stops the process at its start."""
    message = refusal(world, SLACK_WEBHOOK_URL=url, DESTINATION_ALLOWED_HOSTS=hosts)
    assert message.startswith("SLACK_WEBHOOK_URL: ")
    assert "secret" not in message


@pytest.mark.parametrize("missing", ["EMAIL_FROM", "EMAIL_TO"])
def test_mail_requires_a_sender_and_a_recipient(world: World, missing: str) -> None:
    """A server alone is not a destination."""
    addresses = {"EMAIL_FROM": "codecatch@example.com", "EMAIL_TO": "qa@example.com"}
    message = refusal(world, SMTP_URL="smtp://localhost:25", **{**addresses, missing: ""})
    assert message.startswith("SMTP_URL: ")
    assert missing in message


def test_an_invalid_mail_address_is_refused(world: World) -> None:
    """Before anything is sent to it."""
    message = refusal(
        world, SMTP_URL="smtp://localhost:25", EMAIL_FROM="a@example.com", EMAIL_TO="nobody"
    )
    assert "EMAIL_TO" in message


def test_a_host_that_only_the_client_rejects_is_refused(world: World) -> None:
    """A URL that passes the settings is an error message, not a traceback."""
    message = refusal(world, VIRTUALSMS_API_URL="https://a..b\u200d.example/\u200d")
    assert "VIRTUALSMS_API_URL" in message


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
