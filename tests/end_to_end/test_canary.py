"""Canary secrets pass through every component and failure, and appear only where they belong."""

from __future__ import annotations

import base64
import http.client
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.end_to_end import secret_search
from tests.end_to_end.installation import Installation, Integrations
from tests.support import webhooks
from tests.support.http_server import Reply, Request
from tests.support.ports import free_port
from tests.support.waiting import eventually
from worker.runtime.installation import read_env

CODE, FORGED = "8675309142", "8675309777"
PHONE = "+447700955123"
TEXT = "the-canary-sings-at-noon"
SECRET = "whsec_canary-secret-0123456789"
TOKEN = "canary-path-token-0123456789"
SECRETS = {
    "code": CODE,
    "forged code": FORGED,
    "phone number": PHONE.removeprefix("+"),
    "text": TEXT,
    "webhook secret": SECRET,
    "path token": TOKEN,
    "API key": "sk_live_canary-key-0123456789",
    "other API key": "daisy-canary-key-0123456789",
    "Slack URL": "T0CANARY/B0CANARY/slack-canary-0123456789",
    "broken Slack URL": "T0CANARY/B0BROKEN/slack-canary-9876543210",
    "webhook URL": "hook-canary-0123456789",
    "signing secret": base64.b64encode(b"canary secret of the hook 012345").decode(),
    "Apprise token": "apprise-canary-0123456789",
    "mail password": "mail-canary-0123456789",
    "admin token": "admin-canary-token-0123456789",
}

CONFIGURATION = """
[[destinations]]
name = "slack"
kind = "slack"
url_env = "CANARY_SLACK"
per_second = 100.0

[[destinations]]
name = "broken"
kind = "slack"
url_env = "CANARY_BROKEN"
per_second = 100.0

[[destinations]]
name = "hook"
kind = "webhook"
url_env = "CANARY_HOOK"
secret_env = "CANARY_HOOK_SECRET"

[[destinations]]
name = "chat"
kind = "apprise"
url_env = "CANARY_CHAT"

[[destinations]]
name = "mail"
kind = "email"
url_env = "CANARY_MAIL"
from = "codecatch@example.com"
to = ["team@example.com", "nobody@example.com"]

[[destinations]]
name = "locked"
kind = "email"
url_env = "CANARY_LOCKED"
from = "codecatch@example.com"
to = ["team@example.com"]
"""


@pytest.fixture
def integrations() -> Iterator[Integrations]:
    """Fake external services; some fail and quote the request in their error."""
    with Integrations() as integrations:

        def quoting(request: Request) -> Reply:
            said = f"{request.method} {request.path} {request.headers} ".encode() + request.body
            return Reply(status=500 if "broken" in request.path.lower() else 410, body=said)

        integrations.slack.on("POST", "/services/T0CANARY/B0BROKEN/*", handler=quoting)
        integrations.slack.on("POST", "/hook/**", status=204)
        integrations.slack.on("POST", "/chat/**", handler=quoting)
        integrations.api.on("POST", "/api/v2/orders/ord-broken/confirm", handler=quoting)
        integrations.api.on("POST", "/api/v2/orders/ord-gone/confirm", handler=quoting)
        rejected = integrations.smtp.behaviour.reject_recipients
        rejected["nobody@example.com"] = f"550 5.1.1 {CODE} to {PHONE} is not for nobody"
        integrations.codes["act-true"] = CODE
        integrations.codes["act-false"] = "000000"
        yield integrations


def settings(integrations: Integrations) -> dict[str, str]:
    """The environment of an installation, with every secret set."""
    slack, mail = integrations.slack, integrations.smtp.url.removeprefix("smtp://")
    given = integrations.environment()
    api_urls = {name: given[name] for name in ("VIRTUALSMS_API_URL", "DAISYSIM_API_URL")}
    return {
        **api_urls,
        "DESTINATION_ALLOWED_HOSTS": given["DESTINATION_ALLOWED_HOSTS"],
        "VIRTUALSMS_WEBHOOK_SECRETS": SECRET,
        # `up` prints a URL with the first one for the person who starts it.
        "DAISYSIM_WEBHOOK_TOKENS": f"another-made-up-token-01,{TOKEN}",
        "VIRTUALSMS_API_KEY": SECRETS["API key"],
        "DAISYSIM_API_KEY": SECRETS["other API key"],
        "CANARY_SLACK": f"{slack.url}/services/{SECRETS['Slack URL']}",
        "CANARY_BROKEN": f"{slack.url}/services/{SECRETS['broken Slack URL']}",
        "CANARY_HOOK": f"{slack.url}/hook/{SECRETS['webhook URL']}",
        "CANARY_HOOK_SECRET": f"whsec_{SECRETS['signing secret']}",
        "CANARY_CHAT": f"json://127.0.0.1:{slack.port}/chat/{SECRETS['Apprise token']}",
        "CANARY_MAIL": integrations.smtp.url,
        "CANARY_LOCKED": f"smtp://user:{SECRETS['mail password']}@{mail}",
        "ADMIN_TOKEN": SECRETS["admin token"],
        "ADMIN_PORT": str(free_port()),
        "LOG_LEVEL": "debug",
    }


class Sender:
    """Sends requests and records every answer, as an outsider sees it."""

    def __init__(self, port: int) -> None:
        self._port = port
        self.answers: dict[str, bytes] = {}

    def send(
        self, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None
    ) -> int:
        """Send a request, and return the status of its answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=15)
        try:
            connection.request(method, path, body, dict(headers or {}))
            answer = connection.getresponse()
            number = len(self.answers)
            self.answers[f"answer {number}: {answer.status} to {method}"] = (
                str(answer.getheaders()).encode() + answer.read()
            )
        finally:
            connection.close()
        return answer.status


def push(sender: Sender) -> None:
    """Send the secrets in valid, repeated, forged, malformed and misplaced requests."""
    known: Mapping[str, Any] = {
        "code": CODE,
        "phone": PHONE,
        "text": f"{TEXT}: {CODE}",
        "secret": SECRET,
    }
    good = [
        webhooks.virtualsms_v1(order="ord-good", event_id=webhooks.envelope_id(), **known),
        webhooks.virtualsms_v2(order="ord-broken", **known),
        webhooks.virtualsms_flat(order="ord-gone", **known),
        webhooks.daisysim(activation="act-true", code=CODE, phone=PHONE, token=TOKEN),
        webhooks.daisysim(
            activation="act-false", code=FORGED, phone=PHONE, token=TOKEN, token_in="header"
        ),
    ]
    for webhook in good:
        assert sender.send("POST", webhook.path, webhook.body, webhook.headers) == 202
    first = good[0]
    assert sender.send("POST", first.path, first.body, first.headers) == 200
    other = first.json() | {"note": TEXT}
    malformed = {"type": "order.sms_received", "data": {"order_id": {TEXT: PHONE}, "code": CODE}}
    for body in (
        webhooks.encode(other),
        webhooks.encode(malformed),
        webhooks.encode([CODE, TEXT, PHONE]),
        f"{CODE} {TEXT} {PHONE}".encode(),
    ):
        webhook = webhooks.signed(body, secret=SECRET)
        assert sender.send("POST", webhook.path, webhook.body, webhook.headers) == 202
    refused = [
        first.with_body(first.body + b" "),
        webhooks.signed(first.body + b" " * 70_000, secret=SECRET),
        first.with_headers(Content_Encoding="gzip"),
        first.with_headers(X_VirtualSMS_Signature=SECRET),
    ]
    for webhook in refused:
        assert 400 <= sender.send("POST", webhook.path, webhook.body, webhook.headers) < 500
    path = f"{webhooks.DAISYSIM_PATH}/{TOKEN}"
    for method, wrong in [
        ("GET", f"{path}x"), ("POST", f"{path}x"), ("POST", f"/{TOKEN}"), ("PUT", path),
        ("POST", f"{webhooks.DAISYSIM_PATH}?token={TOKEN}&code={CODE}"),
    ]:  # fmt: skip
        assert 400 <= sender.send(method, wrong, f"{CODE} {PHONE}".encode()) < 500
    assert sender.send("GET", path) == 200
    assert sender.send("POST", f"/{path}/", f"{CODE} {PHONE}".encode()) == 202


@pytest.mark.timeout(180)
def test_secrets_appear_only_where_they_belong(integrations: Integrations, tmp_path: Path) -> None:
    """No secret is in logs, broker, files, metrics, process titles, answers or command output."""
    (tmp_path / "codecatch.toml").write_text(CONFIGURATION)
    variables = settings(integrations)
    with Installation(tmp_path, variables) as installation:
        broker = read_env(tmp_path / "var/broker.env")["REDIS_URL"]
        sender = Sender(installation.port)
        with secret_search.BrokerMonitor(broker) as monitor:
            push(sender)
            eventually(lambda: _settled(installation), within=60, every=0.3)
            seen = {
                **monitor.recorded(),
                **secret_search.process_titles(installation.pid),
                **sender.answers,
                **_command_output(installation),
                "metrics": _metrics(variables),
            }
        # Check of the search: an event id that passed through the broker must be found there.
        (event,) = installation.json("events", "list", "--order", "ord-good", "--limit", "1")
        assert secret_search.find_secrets({"id": event["id"]}, monitor.recorded()) == [
            "id in broker's traffic"
        ]
        seen |= _files(tmp_path)
    seen["log, to its end"] = installation.output.encode()
    made = read_env(tmp_path / "var/secrets.env")["ENCRYPTION_KEYS"]
    assert secret_search.find_secrets({**SECRETS, "encryption key": made}, seen) == []
    _check_delivered(integrations)


def _files(folder: Path) -> dict[str, bytes]:
    """All files that it wrote, except the one with the generated keys."""
    return {
        path: content
        for path, content in secret_search.files(folder).items()
        if not path.endswith("/secrets.env")
    }


def _settled(installation: Installation) -> bool:
    """Whether every destination was tried; one that rejects all messages is disabled."""
    stats = installation.json("stats")
    deliveries = installation.json("deliveries", "list", "--limit", "1000")
    tried = {each["destination"] for each in deliveries if each["attempts"]}
    states = {each["state"] for each in deliveries if each["destination"] in {"slack", "hook"}}
    destinations = {"slack", "broken", "hook", "chat", "mail", "locked"}
    return stats["acknowledged_unhandled"] == 0 and tried == destinations and states == {"done"}


def _command_output(installation: Installation) -> dict[str, bytes]:
    """The output of commands without ``--reveal``."""
    nouns = ("codes", "orders", "events", "deliveries", "rejected")
    printed = {noun: installation.json(noun, "list", "--limit", "1000") for noun in nouns}
    for event in printed["events"]:
        printed[event["id"]] = installation.json("events", "show", event["id"])
    assert {"failed", "quarantined", "handled"} <= {each["state"] for each in printed["events"]}
    return {f"codecatch {words}": str(content).encode() for words, content in printed.items()}


def _metrics(variables: Mapping[str, str]) -> bytes:
    connection = http.client.HTTPConnection("127.0.0.1", int(variables["ADMIN_PORT"]), timeout=10)
    connection.request(
        "GET", "/metrics", headers={"Authorization": f"Bearer {SECRETS['admin token']}"}
    )
    answer = connection.getresponse()
    assert answer.status == 200
    body = answer.read()
    connection.close()
    return body


def _check_delivered(integrations: Integrations) -> None:
    """The secrets must have reached their destinations, or the search would prove nothing."""
    for path in (
        "/services/T0CANARY/B0CANARY/*",
        "/services/T0CANARY/B0BROKEN/*",
        "/hook/*",
        "/chat/*",
    ):
        sent = b"".join(request.body for request in integrations.slack.requests("POST", path))
        assert CODE.encode() in sent, path
        assert FORGED.encode() not in sent
    assert CODE in "".join(mail.message.as_string() for mail in integrations.smtp.mails())
    assert {request.headers["authorization"] for request in integrations.api.requests()} == {
        f"Bearer {SECRETS[key]}" for key in ("API key", "other API key")
    }
