"""Failed authentications: rate-limited, explained to the operator, harmless for others."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from receiver.web import auth_failures
from receiver.web.auth_failures import MAX_DIAGNOSED_PER_SECOND, MAX_PER_MINUTE, AuthFailures
from tests.receiver.conftest import Log
from tests.receiver.web.conftest import Clock, Receiver, Start
from tests.support import webhooks
from tests.support.waiting import eventually
from tests.support.webhooks import Webhook

HERE = ip_address("192.0.2.1")
SENT = webhooks.virtualsms_v1()
GUESS = webhooks.daisysim(token="a-guess-0123456789")


def test_failures_per_minute_are_limited() -> None:
    """The limit is per address, and a minute later the count starts again."""
    clock = Clock()
    counted = AuthFailures(clock)
    assert all(counted.record(HERE) for _ in range(MAX_PER_MINUTE))
    assert not counted.record(HERE)
    assert counted.record(ip_address("192.0.2.2"))
    assert counted.record(None)
    clock.now += 59
    assert not counted.record(HERE)
    clock.now += 1
    assert counted.record(HERE)


def test_an_ipv6_network_is_one_sender() -> None:
    """All 2^64 addresses of a subscriber share one limit."""
    counted = AuthFailures(Clock())
    recorded = [counted.record(ip_address(f"2001:db8::{n:x}")) for n in range(MAX_PER_MINUTE * 2)]
    assert recorded.count(True) == MAX_PER_MINUTE


def test_the_number_of_senders_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guesses from many addresses take bounded memory."""
    monkeypatch.setattr(auth_failures, "MAX_SENDERS", 100)
    counted = AuthFailures(Clock())
    for number in range(10_000):
        counted.record(ip_address(number))
    assert len(counted._senders) == 100


def test_diagnoses_per_second_are_limited() -> None:
    """A flood of failures causes a bounded number of diagnoses."""
    clock = Clock()
    counted = AuthFailures(clock)
    for _ in range(3):
        allowed = [counted.allow_diagnosis() for _ in range(1_000)]
        assert allowed.count(True) == MAX_DIAGNOSED_PER_SECOND
        clock.now += 1


@pytest.mark.parametrize(
    ("guess", "authentic"),
    [(GUESS, webhooks.daisysim()), (SENT.with_body(b"{}"), webhooks.virtualsms_v1())],
    ids=["daisysim", "virtualsms"],
)
def test_guessing_gets_429_and_blocks_no_webhook(
    receiver: Receiver, guess: Webhook, authentic: Webhook, log: Log
) -> None:
    """Over the limit failures get 429; an authentic request from the address is accepted."""
    for _ in range(MAX_PER_MINUTE):
        assert receiver.send(guess).status == 401
    for _ in range(5):
        answer = receiver.send(guess)
        assert answer.problem(429) == "too many failed authentications"
        assert int(answer.headers["retry-after"]) > 0
    assert receiver.send(authentic).status == 202
    eventually(lambda: [line for line in log.of("request.answered") if line["status"] == 202])
    statuses = [line["status"] for line in log.of("request.answered")]
    assert statuses == [401] * MAX_PER_MINUTE + [202]


def rejections(receiver: Receiver) -> list[tuple[int, str, str | None]]:
    """Stop the receiver, which writes them, and return status, reason and origin of rejections."""
    receiver.finish()
    vault = receiver.store.vault
    names = {"table": "rejected_requests", "column": "origin"}
    return [
        (row.status, row.reason, vault.open_text(row.origin, row=row.id, **names))
        for row in receiver.rejections()
    ]


TOKEN = webhooks.TOKEN


@pytest.mark.parametrize(
    ("sent", "hint"),
    [
        (SENT.with_body(SENT.body + b"\n"), "probably a proxy, rewrote it"),
        (SENT.with_headers(X_VirtualSMS_Signature=None), "a proxy removes the header"),
        (webhooks.daisysim(token=TOKEN.upper()), "but differs in case"),
        (webhooks.daisysim(token=TOKEN[:-2]), "but is cut off"),
        (webhooks.daisysim(token=None), "no token: end the webhook URL with it"),
    ],
)
def test_only_the_operator_sees_the_reason(
    receiver: Receiver, sent: Webhook, hint: str, log: Log
) -> None:
    """The response never has the reason; log and rejection do, without a secret."""
    assert receiver.send(sent).problem(401) == "the request could not be authenticated"
    (line,) = eventually(lambda: log.of("request.answered"))
    assert hint in line["reason"]
    assert line["level"] == "warning"
    ((status, reason, origin),) = rejections(receiver)
    assert (status, reason, origin) == (401, line["reason"], "127.0.0.1")
    for secret in (webhooks.SECRET, TOKEN, TOKEN[:-2], TOKEN.upper()):
        assert secret not in log.text


def test_a_wrong_clock_is_reported(start: Start, log: Log) -> None:
    """The reason says whether the timestamp is behind or ahead of our clock."""
    receiver = start(VIRTUALSMS_TIMESTAMP_TOLERANCE="60")
    for stamp in (1, 99_999_999_999):
        assert receiver.send(webhooks.virtualsms_v1(timestamp=stamp)).status == 401
    eventually(lambda: len(log.of("request.answered")) == 2)
    behind, ahead = (line["reason"] for line in log.of("request.answered"))
    assert "behind our clock" in behind
    assert "ahead of our clock" in ahead


@pytest.mark.parametrize(
    ("variable", "webhook", "other"),
    [
        ("VIRTUALSMS_ALLOWED_ADDRESSES", SENT, webhooks.daisysim()),
        ("DAISYSIM_ALLOWED_ADDRESSES", webhooks.daisysim(), SENT),
    ],
)
def test_an_address_outside_the_list_is_403(
    start: Start, variable: str, webhook: Webhook, other: Webhook
) -> None:
    """Valid credentials do not help; one matching network is enough for another address."""
    receiver = start(**{variable: "192.0.2.0/24, 2001:db8::/32"})
    answer = receiver.send(webhook)
    assert answer.problem(403) == "the request is not allowed"
    assert answer.headers["connection"] == "close"
    assert receiver.send(other).status == 202
    assert start(**{variable: "2001:db8::/32,127.0.0.0/8"}).send(webhook).status == 202
    ((status, reason, _),) = rejections(receiver)
    assert status == 403
    assert reason.startswith(f"the client's address is not in {variable}")


FORWARDED = {"X_Forwarded_For": "198.51.100.9, 192.0.2.7"}


@pytest.mark.parametrize(
    ("trusted", "origin"),
    [
        ({}, "127.0.0.1"),
        ({"FORWARDED_ALLOW_IPS": "192.0.2.0/24"}, "127.0.0.1"),
        ({"FORWARDED_ALLOW_IPS": "127.0.0.1"}, "192.0.2.7"),
        ({"FORWARDED_ALLOW_IPS": "127.0.0.0/8,192.0.2.7"}, "198.51.100.9"),
    ],
)
def test_only_a_trusted_proxy_sets_the_address(
    start: Start, trusted: dict[str, str], origin: str
) -> None:
    """``X-Forwarded-For`` counts only from a proxy in FORWARDED_ALLOW_IPS."""
    receiver = start(**trusted)
    receiver.send(SENT.with_body(b"{}").with_headers(**FORWARDED))
    ((_, _, seen),) = rejections(receiver)
    assert seen == origin


def test_lists_and_limits_apply_to_the_client_behind_a_proxy(start: Start) -> None:
    """Allow-list and limit use the client's address, not the proxy's."""
    receiver = start(FORWARDED_ALLOW_IPS="127.0.0.1", DAISYSIM_ALLOWED_ADDRESSES="192.0.2.7")
    assert receiver.send(webhooks.daisysim().with_headers(**FORWARDED)).status == 202
    elsewhere = webhooks.daisysim().with_headers(X_Forwarded_For="192.0.2.7, 203.0.113.1")
    assert receiver.send(elsewhere).status == 403
    guess = SENT.with_body(b"{}")
    for _ in range(MAX_PER_MINUTE):
        receiver.send(guess.with_headers(**FORWARDED))
    assert receiver.send(guess.with_headers(**FORWARDED)).status == 429
    assert receiver.send(guess.with_headers(X_Forwarded_For="203.0.113.1")).status == 401


def test_a_malformed_forwarded_address_is_unknown(start: Start) -> None:
    """An invalid ``X-Forwarded-For`` counts as an unknown client."""
    receiver = start(FORWARDED_ALLOW_IPS="127.0.0.1")
    for words in ("unknown", "x" * 5_000, "é", "[::1", ", ,"):
        receiver.send(SENT.with_body(b"{}").with_headers(X_Forwarded_For=words))
    origins = [origin for _, _, origin in rejections(receiver)]
    assert len(origins) == 5
    assert {*origins} <= {"unknown", "127.0.0.1"}
