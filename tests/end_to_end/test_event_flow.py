"""The whole flow of an event: webhook, code, confirmed order, Slack message and mail."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from contextlib import ExitStack
from importlib import metadata

import pytest

from tests.end_to_end.installation import API_KEY, MAILBOX, Installation, Integrations
from tests.support import webhooks
from tests.support.stores import ENCRYPTION_KEYS
from tests.support.waiting import eventually

pytestmark = pytest.mark.xdist_group("installation")


@pytest.fixture(scope="module")
def integrations() -> Iterator[Integrations]:
    """Fake external services."""
    with Integrations() as integrations:
        yield integrations


@pytest.fixture(
    scope="module", params=["embedded", pytest.param("servers", marks=pytest.mark.nightly)]
)
def installation(
    request: pytest.FixtureRequest,
    integrations: Integrations,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Installation]:
    """An installation on SQLite with its own broker, and one on PostgreSQL with an outside one."""
    settings = integrations.environment()
    with ExitStack() as stack:
        if request.param == "servers":
            postgres = request.getfixturevalue("postgres")
            settings["DATABASE_URL"] = stack.enter_context(postgres.database())
            settings["REDIS_URL"] = request.getfixturevalue("valkey").url_of(0)
            settings["ENCRYPTION_KEYS"] = ENCRYPTION_KEYS
        folder = tmp_path_factory.mktemp(request.param)
        yield stack.enter_context(Installation(folder, settings))


def test_the_printed_commands_work_in_another_terminal(installation: Installation) -> None:
    """The commands that `up` prints show a code, also in a terminal without its variables."""
    (line,) = [line for line in installation.output.splitlines() if " && codecatch wait " in line]
    for words in line.split(" && "):
        done = installation.terminal(*words.split()[1:], without="PORT")
        assert done.returncode == 0, done.stderr
    assert done.stdout.strip().isdigit()
    assert installation.command("version") == (0, f"{metadata.version('codecatch')}\n")


def test_a_virtualsms_code_is_delivered_once(
    installation: Installation, integrations: Integrations, request: pytest.FixtureRequest
) -> None:
    """A code is stored, printed by wait, delivered once everywhere, and confirmed once."""
    order, code = _new_order_and_code(request, "virtualsms")
    webhook = webhooks.virtualsms_v1(order=order, code=code)
    first = installation.send(webhook)
    assert (first.status, first.content["status"]) == (202, "accepted")

    assert installation.command("wait", order, "--timeout", "20") == (0, f"{code}\n")
    (listed,) = installation.json("codes", "list", "--order", order, "--reveal")
    assert (listed["code"], listed["phone_number"]) == (code, webhooks.UK_PHONE)
    eventually(lambda: integrations.slack_deliveries(code) and integrations.mail_deliveries(code))
    (confirmed,) = eventually(lambda: integrations.confirmations(order))
    assert confirmed.headers["authorization"] == f"Bearer {API_KEY}"
    assert {mail.recipients[0] for mail in integrations.smtp.mails()} == {MAILBOX}
    eventually(
        lambda: installation.json("orders", "show", order)["status"] == "confirmed", every=0.2
    )

    again = installation.send(webhook)
    assert (again.status, again.content["status"]) == (200, "duplicate")
    assert again.content["event"] == first.content["event"]
    _check_effects_once(installation, integrations, order, code)


def test_a_daisysim_code_is_verified_and_delivered_once(
    installation: Installation, integrations: Integrations, request: pytest.FixtureRequest
) -> None:
    """The code is verified with the provider first, then printed and delivered once."""
    order, code = _new_order_and_code(request, "daisysim")
    integrations.codes[order] = code
    webhook = webhooks.daisysim(activation=order, code=code)
    assert installation.send(webhook).status == 202
    waited = installation.command("wait", order, "--provider", "daisysim", "--timeout", "20")
    assert waited == (0, f"{code}\n")
    eventually(lambda: integrations.slack_deliveries(code) and integrations.mail_deliveries(code))
    assert len(integrations.api.requests("GET", f"/daisy/check/{order}")) == 1
    assert installation.send(webhook).content["status"] == "duplicate"
    assert (integrations.slack_deliveries(code), integrations.mail_deliveries(code)) == (1, 1)


def test_a_forged_daisysim_code_is_not_delivered(
    installation: Installation, integrations: Integrations, request: pytest.FixtureRequest
) -> None:
    """A code that the provider contradicts is quarantined, and wait does not print it."""
    order, code = _new_order_and_code(request, "forged")
    integrations.codes[order] = "000000"
    sent = installation.send(webhooks.daisysim(activation=order, code=code))
    event = installation.event(sent.content["event"], "quarantined")
    assert "another code" in event["error"]
    assert installation.command("wait", order, "--timeout", "0.5") == (3, "")
    assert (integrations.slack_deliveries(code), integrations.mail_deliveries(code)) == (0, 0)


def test_an_events_log_lines_have_its_id(
    installation: Installation, integrations: Integrations, request: pytest.FixtureRequest
) -> None:
    """The request, the handling and the deliveries log the event's id and never the code."""
    order, code = _new_order_and_code(request, "log")
    sent = installation.send(webhooks.virtualsms_v1(order=order, code=code))
    eventually(lambda: integrations.slack_deliveries(code) and integrations.mail_deliveries(code))

    def lines() -> list[str]:
        return [line for line in installation.output.splitlines() if sent.content["event"] in line]

    for name in ("request.answered", "event.handled", "delivery.attempted"):
        eventually(lambda name=name: any(name in line for line in lines()))  # type: ignore[misc]
    assert code not in installation.output
    assert webhooks.UK_PHONE not in installation.output


def _new_order_and_code(request: pytest.FixtureRequest, word: str) -> tuple[str, str]:
    """An order and a code that no other test uses."""
    number = zlib.crc32(f"{request.node.nodeid} {word}".encode()) % 10**8
    return f"ord-{word}-{number}", f"{number:08d}"


def _check_effects_once(
    installation: Installation, integrations: Integrations, order: str, code: str
) -> None:
    """Wait until no work is left, and check that each effect happened once."""

    def states() -> list[str]:
        listed = installation.json("deliveries", "list", "--order", order)
        return [delivery["state"] for delivery in listed]

    eventually(lambda: installation.json("stats")["acknowledged_unhandled"] == 0, every=0.2)
    eventually(lambda: states() == ["done", "done"], every=0.2)
    assert len(installation.json("codes", "list", "--order", order)) == 1
    assert (integrations.slack_deliveries(code), integrations.mail_deliveries(code)) == (1, 1)
    assert len(integrations.confirmations(order)) == 1
