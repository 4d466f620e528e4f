"""Failed authentication: bounded for guessers, explained to the owner, no matter for senders."""

from __future__ import annotations

from ipaddress import ip_address

import pytest
from sqlmodel import select

from receiver.inbox.rejections import RejectedRequest
from receiver.web import auth_failures
from receiver.web.auth_failures import EXAMINED_PER_SECOND, PER_MINUTE, AuthFailures
from tests.receiver.conftest import Log
from tests.receiver.web.conftest import Receiver, Start
from tests.support import webhooks
from tests.support.waiting import eventually
from tests.support.webhooks import Webhook

HERE = ip_address("192.0.2.1")
SENT = webhooks.virtualsms_v1()
GUESS = webhooks.daisysim(token="a-guess-0123456789")


class Clock:
    """A clock that is set."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        """What it shows, in seconds."""
        return self.now


def test_a_sender_is_tolerated_some_times_a_minute() -> None:
    """So many failures and no more; others are not concerned, and a minute later all is new."""
    clock = Clock()
    counted = AuthFailures(clock)
    assert all(counted.tolerates(HERE) for _ in range(PER_MINUTE))
    assert not counted.tolerates(HERE)
    assert counted.tolerates(ip_address("192.0.2.2"))
    assert counted.tolerates(None)
    clock.now += 59
    assert not counted.tolerates(HERE)
    clock.now += 1
    assert counted.tolerates(HERE)


def test_a_subscriber_of_ipv6_is_one_sender() -> None:
    """Taking another of his 2^64 addresses does not help."""
    counted = AuthFailures(Clock())
    tolerated = [counted.tolerates(ip_address(f"2001:db8::{n:x}")) for n in range(PER_MINUTE * 2)]
    assert tolerated.count(True) == PER_MINUTE


def test_of_many_senders_only_so_many_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    """A guesser with a million addresses costs no more memory than one with a few."""
    monkeypatch.setattr(auth_failures, "MOST_SENDERS", 100)
    counted = AuthFailures(Clock())
    for number in range(10_000):
        counted.tolerates(ip_address(number))
    assert len(counted._senders) == 100


def test_few_are_examined_in_a_second() -> None:
    """Examining costs time, and a flood gets no more of it than a trickle."""
    clock = Clock()
    counted = AuthFailures(clock)
    for _ in range(3):
        examined = [counted.worth_examining() for _ in range(1_000)]
        assert examined.count(True) == EXAMINED_PER_SECOND
        clock.now += 1


@pytest.mark.parametrize(
    ("guess", "honest"),
    [(GUESS, webhooks.daisysim()), (SENT.with_body(b"{}"), webhooks.virtualsms_v1())],
    ids=["daisysim", "virtualsms"],
)
def test_guessing_ends_in_429_and_locks_nobody_out(
    receiver: Receiver, guess: Webhook, honest: Webhook, log: Log
) -> None:
    """After some failures the guesser is told to wait, and the provider beside him is heard."""
    for _ in range(PER_MINUTE):
        assert receiver.send(guess).status == 401
    for _ in range(5):
        answer = receiver.send(guess)
        assert answer.problem(429) == "too many requests could not be authenticated"
        assert int(answer.headers["retry-after"]) > 0
    assert receiver.send(honest).status == 202
    eventually(lambda: [line for line in log.of("request.answered") if line["status"] == 202])
    statuses = [line["status"] for line in log.of("request.answered")]
    assert statuses == [401] * PER_MINUTE + [202]


def refusals(receiver: Receiver) -> list[tuple[int, str, str | None]]:
    """Status, reason and origin of every refusal that is kept."""
    vault = receiver.store.vault
    with receiver.store.database.reading() as session:
        return [
            (
                row.status,
                row.reason,
                vault.open_text(row.origin, table="rejected_requests", column="origin", row=row.id),
            )
            for row in session.exec(select(RejectedRequest))
        ]


TOKEN = webhooks.TOKEN


@pytest.mark.parametrize(
    ("sent", "clue"),
    [
        (webhooks.virtualsms_v1(secret=webhooks.SECRET + "\n"), "fits the secret with a line end"),
        (webhooks.virtualsms_v1().with_body(SENT.body), "does not fit the body under any"),
        (SENT.with_body(SENT.body + b"\n"), "a proxy most likely, wrote it anew"),
        (SENT.with_headers(X_VirtualSMS_Signature="0" * 40), "64 hex digits"),
        (SENT.with_headers(X_VirtualSMS_Signature=None), "a proxy takes it away"),
        (webhooks.daisysim(token=TOKEN.upper()), "but in other letters"),
        (webhooks.daisysim(token=TOKEN[:-2]), "but cut short"),
        (webhooks.daisysim(token=f'"{TOKEN}"'), "but with something around it"),
        (webhooks.daisysim(token="another-0123456789"), "is not one of DAISYSIM_WEBHOOK_TOKENS"),
        (webhooks.daisysim(token="t"), "is not one of DAISYSIM_WEBHOOK_TOKENS"),
        (webhooks.daisysim(token=None), "no token: the URL ends in one"),
    ],
)
def test_the_owner_learns_why_and_the_sender_does_not(
    receiver: Receiver, sent: Webhook, clue: str, log: Log
) -> None:
    """One public sentence for every cause; log and trace name it, without a secret."""
    assert receiver.send(sent).problem(401) == "the request could not be authenticated"
    (line,) = eventually(lambda: log.of("request.answered"))
    assert clue in line["reason"]
    ((status, reason, origin),) = eventually(lambda: refusals(receiver))
    assert (status, reason, origin) == (401, line["reason"], "127.0.0.1")
    for secret in (webhooks.SECRET, TOKEN, TOKEN[:-2], TOKEN.upper()):
        assert secret not in log.text


def test_a_clock_that_is_wrong_is_named(start: Start, log: Log) -> None:
    """Where stale timestamps are refused, the owner learns on which side ours is."""
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
def test_an_address_that_is_not_listed_is_403(
    start: Start, variable: str, webhook: Webhook, other: Webhook
) -> None:
    """Right credentials do not help from elsewhere; the other provider is not concerned."""
    receiver = start(**{variable: "192.0.2.0/24, 2001:db8::/32"})
    answer = receiver.send(webhook)
    assert answer.problem(403) == "the request is not allowed"
    assert answer.headers["connection"] == "close"
    assert receiver.send(other).status == 202
    ((status, reason, _),) = eventually(lambda: refusals(receiver))
    assert status == 403
    assert reason.startswith(f"the address is not in {variable}")


def test_a_listed_address_is_heard(start: Start) -> None:
    """One network of several is enough."""
    receiver = start(VIRTUALSMS_ALLOWED_ADDRESSES="2001:db8::/32,127.0.0.0/8")
    assert receiver.send(SENT).status == 202


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
def test_only_a_named_proxy_is_believed(start: Start, trusted: dict[str, str], origin: str) -> None:
    """An address that anybody can write into a header counts only from a proxy that is named."""
    receiver = start(**trusted)
    receiver.send(SENT.with_body(b"{}").with_headers(**FORWARDED))
    ((_, _, seen),) = eventually(lambda: refusals(receiver))
    assert seen == origin


def test_behind_a_named_proxy_lists_and_counts_are_of_the_sender(start: Start) -> None:
    """The allow-list looks through the proxy, and one guesser behind it is not another."""
    receiver = start(FORWARDED_ALLOW_IPS="127.0.0.1", DAISYSIM_ALLOWED_ADDRESSES="192.0.2.7")
    assert receiver.send(webhooks.daisysim().with_headers(**FORWARDED)).status == 202
    elsewhere = webhooks.daisysim().with_headers(X_Forwarded_For="192.0.2.7, 203.0.113.1")
    assert receiver.send(elsewhere).status == 403
    guess = SENT.with_body(b"{}")
    for _ in range(PER_MINUTE):
        receiver.send(guess.with_headers(**FORWARDED))
    assert receiver.send(guess.with_headers(**FORWARDED)).status == 429
    assert receiver.send(guess.with_headers(X_Forwarded_For="203.0.113.1")).status == 401


def test_a_proxy_that_names_nonsense_is_no_trouble(start: Start) -> None:
    """Words for an address are an unknown sender."""
    receiver = start(FORWARDED_ALLOW_IPS="127.0.0.1")
    for words in ("unknown", "x" * 5_000, "é", "[::1", ", ,"):
        receiver.send(SENT.with_body(b"{}").with_headers(X_Forwarded_For=words))
    eventually(lambda: len(refusals(receiver)) == 5)
    assert {origin for _, _, origin in refusals(receiver)} <= {"unknown", "127.0.0.1"}
