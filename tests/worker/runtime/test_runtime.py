"""A worker process's parts, made from the environment."""

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
    """What is said about an environment that cannot work."""
    with pytest.raises(ConfigurationError) as refused:
        world.connect(**variables)
    return str(refused.value)


def test_everything_that_is_configured_is_there(world: World) -> None:
    """Providers with a key, destinations with an address, and what follows from them."""
    made = world.connect(virtualsms=True, daisysim=True, slack=True, mail=True)

    assert set(made.integrations.apis) == {"virtualsms", "daisysim"}
    assert set(made.integrations.destinations) == {"slack", "email"}
    assert made.policy.confirming == {"virtualsms"}
    assert made.policy.verifying == {"daisysim"}
    assert made.policy.routing.operators() == ["email", "slack"]


def test_nothing_is_there_that_was_not_configured(world: World) -> None:
    """A database and a broker are enough."""
    made = world.connect()

    assert (made.integrations.apis, made.integrations.destinations) == ({}, {})
    assert (made.policy.confirming, made.policy.verifying) == (frozenset(), frozenset())


def test_limits_come_from_the_environment_or_the_provider(world: World) -> None:
    """Each class of calls has one."""
    made = world.connect(virtualsms=True, daisysim=True, DAISYSIM_RATE_LIMITS="check=5")

    assert made.integrations.apis["virtualsms"].limit("calls") == 60
    assert made.integrations.apis["daisysim"].limit("check") == 5
    assert made.integrations.apis["daisysim"].limit("cancel") == 10


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
        ("SMTP_URL", "mail.example.com"),
        ("DESTINATION_ALLOWED_HOSTS", "https://example.com"),
    ],
)
def test_each_bad_variable_is_named(world: World, variable: str, value: str) -> None:
    """One line says which, and never what it holds."""
    said = refusal(world, **{variable: value})

    assert said.startswith(f"{variable}: ")
    assert "secret" not in said
    assert "\n" not in said


@pytest.mark.parametrize("variable", ["DATABASE_URL", "ENCRYPTION_KEYS", "REDIS_URL"])
def test_what_is_required_is_named(world: World, variable: str) -> None:
    """An empty variable counts as none."""
    assert refusal(world, **{variable: ""}).startswith(f"{variable}: is required")


def test_another_installations_keys_do_not_open_the_database(world: World) -> None:
    """The message names the variable, and no connection stays behind."""
    assert refusal(world, ENCRYPTION_KEYS=generate_key()).startswith("ENCRYPTION_KEYS: cannot open")


def test_a_rotated_key_opens_it_still(world: World) -> None:
    """The first key seals, any opens."""
    made = world.connect(ENCRYPTION_KEYS=f"{generate_key()},{ENCRYPTION_KEYS}")
    assert made.vault.digest("code", "1234") == world.store.vault.digest("code", "1234")


def test_a_database_that_is_not_prepared(
    world: World, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """The message says what to run."""
    empty = tmp_path_factory.mktemp("empty") / "new.db"
    assert "codecatch migrate" in refusal(world, DATABASE_URL=f"sqlite:///{empty}")


def test_verifying_needs_a_key(world: World) -> None:
    """Switched on by hand, it must not be off in silence."""
    said = refusal(world, DAISYSIM_VERIFY_BACK="on")
    assert said.startswith("DAISYSIM_VERIFY_BACK: ")
    assert "DAISYSIM_API_KEY" in said


@pytest.mark.parametrize("verify_back", ["auto", "on", "off"])
def test_verifying_can_be_chosen(world: World, verify_back: str) -> None:
    """With a key it is on unless it is switched off."""
    made = world.connect(daisysim=True, DAISYSIM_VERIFY_BACK=verify_back)
    assert made.policy.verifies("daisysim") is (verify_back != "off")


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
def test_slack_is_reached_at_its_own_host_or_a_named_one(
    world: World, url: str, hosts: str
) -> None:
    """Anything else has to be named."""
    made = world.connect(SLACK_WEBHOOK_URL=url, DESTINATION_ALLOWED_HOSTS=hosts)
    assert set(made.integrations.destinations) == {"slack"}


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
def test_slack_is_reached_nowhere_else(world: World, url: str, hosts: str) -> None:
    """A URL that would be refused when it is used stops the process at its start."""
    said = refusal(world, SLACK_WEBHOOK_URL=url, DESTINATION_ALLOWED_HOSTS=hosts)
    assert said.startswith("SLACK_WEBHOOK_URL: ")
    assert "secret" not in said


@pytest.mark.parametrize("missing", ["EMAIL_FROM", "EMAIL_TO"])
def test_mail_needs_a_sender_and_somebody_to_read_it(world: World, missing: str) -> None:
    """A server alone is not a destination."""
    addresses = {"EMAIL_FROM": "codecatch@example.com", "EMAIL_TO": "qa@example.com"}
    said = refusal(world, SMTP_URL="smtp://localhost:25", **{**addresses, missing: ""})
    assert said.startswith("SMTP_URL: ")
    assert missing in said


def test_an_address_that_is_none_is_refused(world: World) -> None:
    """Before anything is sent to it."""
    said = refusal(
        world, SMTP_URL="smtp://localhost:25", EMAIL_FROM="a@example.com", EMAIL_TO="nobody"
    )
    assert "EMAIL_TO" in said


def test_a_host_that_no_client_takes_is_refused(world: World) -> None:
    """What gets past the first look is still no traceback."""
    said = refusal(world, VIRTUALSMS_API_URL="https://a..b\u200d.example/\u200d")
    assert "VIRTUALSMS_API_URL" in said


def test_nothing_secret_shows(world: World) -> None:
    """A runtime that ends up in a traceback does not tell the keys."""
    made = world.connect(virtualsms=True, slack=True)
    assert VIRTUALSMS_KEY not in repr(made)
    assert "made-up-secret" not in repr(made)


def test_a_process_has_one_runtime_until_it_is_closed(world: World) -> None:
    """It is made when first asked for, and made anew after it was closed."""
    world.connect()
    first = process.get()
    assert process.get() is first
    process.close()
    second = process.get()
    assert second is not first
    process.close()
    process.close()
