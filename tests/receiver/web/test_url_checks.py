"""What people and dashboards do with a webhook's URL before any webhook arrives."""

from __future__ import annotations

from dataclasses import replace

import pytest

from receiver.web.auth_failures import MAX_PER_MINUTE
from tests.receiver.conftest import Log
from tests.receiver.web.conftest import Answer, Receiver, Start
from tests.support import webhooks
from tests.support.waiting import eventually

SIGNED = webhooks.virtualsms_v1()
TOKEN_HEADER = {"X-Codecatch-Token": webhooks.TOKEN}
WITH_TOKEN = f"/webhooks/daisysim/{webhooks.TOKEN}"


def shown(answer: Answer) -> bytes:
    """The sentence of an answer in plain text."""
    assert answer.status == 200
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"
    return answer.body


def test_a_get_says_what_arrives_here(receiver: Receiver) -> None:
    """One plain sentence, with or without a body in the request, and nothing is stored."""
    for path, headers, provider in (
        ("/webhooks/virtualsms", {}, "virtualsms"),
        ("/webhooks/virtualsms/", {}, "virtualsms"),
        (WITH_TOKEN, {}, "daisysim"),
        (f"/webhooks//daisysim/{webhooks.TOKEN}/", {}, "daisysim"),
        ("/webhooks/daisysim", TOKEN_HEADER, "daisysim"),
    ):
        words = f"Webhooks of {provider} arrive here, by POST.\n".encode()
        assert shown(receiver.ask("GET", path, headers=headers)) == words
        assert shown(receiver.ask("GET", path, b'{"code":"1"}', headers)) == words
        head = receiver.ask("HEAD", path, headers=headers)
        assert shown(head) == b""
        assert head.headers["content-length"] == str(len(words))
    assert receiver.events() == []


@pytest.mark.parametrize(
    ("path", "headers"),
    [
        ("/webhooks/daisysim", {}),
        ("/webhooks/daisysim/", {}),
        ("/webhooks/daisysim/another-token-0123456789", {}),
        (WITH_TOKEN, TOKEN_HEADER),
    ],
)
def test_a_get_needs_the_token_that_a_post_needs(
    receiver: Receiver, path: str, headers: dict[str, str]
) -> None:
    """A URL with a secret in it tells a stranger nothing, and each try counts as a guess."""
    assert receiver.ask("HEAD", path, headers=headers).status == 401
    for _ in range(MAX_PER_MINUTE - 1):
        answer = receiver.ask("GET", path, headers=headers)
        assert answer.problem(401) == "the request could not be authenticated"
    for method in ("GET", "POST"):
        assert receiver.ask(method, path, headers=headers).problem(429)
    assert shown(receiver.ask("GET", WITH_TOKEN))


def test_a_refused_get_is_recorded(receiver: Receiver, log: Log) -> None:
    """The operator sees the reason, and no token."""
    receiver.ask("GET", f"/webhooks/daisysim/{webhooks.TOKEN[:-1]}")
    (line,) = eventually(lambda: log.of("request.answered"))
    assert (line["method"], line["route"], line["status"]) == ("GET", "daisysim", 401)
    assert "is cut off" in line["reason"]
    assert webhooks.TOKEN[:-1] not in log.text
    assert [row.reason for row in eventually(receiver.rejections)] == [line["reason"]]


@pytest.mark.parametrize("name", ["virtualsms", "daisysim"])
def test_a_get_does_not_hide_that_nothing_would_be_accepted(start: Start, name: str) -> None:
    """Without a secret it is 503 and from an address that is not allowed 403, as for a POST."""
    variables = {"virtualsms": "VIRTUALSMS_WEBHOOK_SECRETS", "daisysim": "DAISYSIM_WEBHOOK_TOKENS"}
    path = {"virtualsms": "/webhooks/virtualsms", "daisysim": WITH_TOKEN}[name]
    assert start(**{variables[name]: ""}).ask("GET", path).problem(503)
    allowed = {f"{name.upper()}_ALLOWED_ADDRESSES": "192.0.2.1", variables[name]: webhooks.TOKEN}
    assert start(**allowed).ask("GET", path).problem(403)


def test_extra_slashes_change_nothing(receiver: Receiver) -> None:
    """The event is stored without a redirect, and is the same event as at the exact path."""
    for number, (webhook, path) in enumerate(
        (
            (SIGNED, "/webhooks/virtualsms/"),
            (SIGNED, "//webhooks/virtualsms"),
            (SIGNED, "/webhooks//virtualsms///"),
            (webhooks.daisysim(), f"{WITH_TOKEN}/"),
            (webhooks.daisysim(), f"//webhooks//daisysim//{webhooks.TOKEN}"),
            (webhooks.daisysim(token_in="header"), "/webhooks/daisysim/"),
        )
    ):
        body = b'{"id": "evt_%d"}' % number
        exact = webhooks.signed(body) if webhook is SIGNED else webhook.with_body(body)
        answer = receiver.send(replace(exact, path=path))
        assert (answer.status, "location" in answer.headers) == (202, False)
        assert receiver.send(exact).json()["event"] == answer.json()["event"]
