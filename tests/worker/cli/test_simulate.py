"""``codecatch simulate``: the receiver accepts what it sends."""

from __future__ import annotations

import re
import time

import pytest

from receiver.events import OrderEvent, SmsReceived
from tests.support.http_server import HttpServer, Reply
from tests.support.receiving import authentic
from tests.support.webhooks import SECRET, TOKEN
from tests.worker.cli.conftest import Run
from worker.messages.text import plain
from worker.simulator import signed_webhooks

EVERY = [
    (provider, dialect, event)
    for provider, dialects in signed_webhooks.EVENTS.items()
    for dialect, events in dialects.items()
    for event in events
]
FICTIONAL = re.compile(r"\+447700900[0-9]{3}|\+120255501[0-9]{2}")


@pytest.fixture(autouse=True)
def _configured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VIRTUALSMS_WEBHOOK_SECRETS", f"{SECRET},another-one")
    monkeypatch.setenv("DAISYSIM_WEBHOOK_TOKENS", TOKEN)


@pytest.fixture
def receiver(http_server: HttpServer) -> HttpServer:
    """A receiver that accepts every webhook."""
    http_server.on("POST", "/webhooks/**", status=202, json={"status": "accepted", "event": "E1"})
    return http_server


@pytest.mark.parametrize(("provider", "dialect", "event"), EVERY)
def test_every_event_of_every_dialect_is_authentic(
    run_unconfigured: Run, receiver: HttpServer, provider: str, dialect: str, event: str
) -> None:
    """The receiver's verifier and parser accept every simulated event."""
    words = (provider, event, "--dialect", dialect, "--order", "4711", "--code", "902-114")
    answer = run_unconfigured("simulate", *words, "--url", receiver.url)
    assert answer.code == 0, answer.err
    assert answer.out.startswith("202 accepted E1")
    (request,) = receiver.requests()
    sent = authentic(request)
    assert (sent.type, sent.provider) == (event, provider)
    if isinstance(sent, OrderEvent):
        assert sent.order_id == "4711"
        assert FICTIONAL.fullmatch(sent.phone_number or "")
    if isinstance(sent, SmsReceived):
        assert sent.code == "902-114"
        assert sent.at is not None


def test_many_orders_are_all_different(run_unconfigured: Run, receiver: HttpServer) -> None:
    """--count sends that many different orders, and prints a summary."""
    answer = run_unconfigured(
        "simulate", "daisysim", "sms.received", "--count", "5", "--url", receiver.url
    )
    events = [authentic(request) for request in receiver.requests()]
    assert len({event.order_id for event in events if isinstance(event, SmsReceived)}) == 5
    *lines, summary = answer.out.splitlines()
    assert len(lines) == 5
    assert "5 x 202 accepted" in summary
    assert TOKEN not in answer.out


def test_the_rate_is_kept(run_unconfigured: Run, receiver: HttpServer) -> None:
    """Requests are sent no faster than --rate."""
    words = ("simulate", "virtualsms", "balance.low", "--count", "3", "--rate", "20")
    began = time.monotonic()
    assert run_unconfigured(*words, "--url", receiver.url).code == 0
    incoming_events = [request.clock - began for request in receiver.requests()]
    assert all(incoming >= 0.05 * place for place, incoming in enumerate(incoming_events))


def test_the_default_is_the_receiver_of_this_machine(
    run_unconfigured: Run, receiver: HttpServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without --url, PORT determines the receiver."""
    monkeypatch.setenv("PORT", str(receiver.port))
    assert run_unconfigured("simulate", "virtualsms", "order.expired").code == 0
    (request,) = receiver.requests("POST", "/webhooks/virtualsms")
    assert "x-virtualsms-delivery" in request.headers


ANSWERS: dict[str, tuple[Reply | None, int, str]] = {
    "refused": (
        Reply(status=401, json={"title": "Unauthorized", "detail": "no\x1b[31m such signature"}),
        1,
        "401 no such signature",
    ),
    "nothing": (Reply(), 0, "200 order o\n"),
    "a list": (Reply(body=b"[]"), 0, "200 order o\n"),
    "no JSON": (Reply(body=b"not json"), 0, "200 order o\n"),
    "unreachable": (None, 1, "no answer 127.0.0.1"),
}


@pytest.mark.parametrize("case", ANSWERS)
def test_the_status_decides(run_unconfigured: Run, http_server: HttpServer, case: str) -> None:
    """Any but 2xx ends with exit code 1; the reason is made harmless and shows no token."""
    reply, code, says = ANSWERS[case]
    http_server.on("POST", "/webhooks/**", handler=lambda _: reply or Reply())
    url = http_server.url if reply else "http://127.0.0.1:1"
    answer = run_unconfigured("simulate", "daisysim", "sms.received", "--order", "o", "--url", url)
    assert answer.code == code
    assert answer.out.startswith(says)
    assert plain(answer.out) == answer.out.strip()
    assert TOKEN not in answer.out + answer.err


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("daisysim", "order.confirmed"), "has no event order.confirmed"),
        (("daisysim", "sms.received", "--dialect", "v1"), "has no dialect v1"),
        (("virtualsms", "order.confirmed", "--dialect", "flat"), "has no event order.confirmed"),
        (("virtualsms", "unknown"), "has no event unknown"),
        (("nobody", "sms.received"), "unknown provider nobody"),
        (("virtualsms", "sms.received", "--url", "ftp://host"), "the receiver's URL"),
        (("virtualsms", "sms.received", "--url", "http://u:p@host"), "the receiver's URL"),
        (("virtualsms", "sms.received", "--url", "http://host:99999"), "the receiver's URL"),
        (("virtualsms", "sms.received", "--rate", "0"), "webhooks per second"),
        (("virtualsms", "sms.received", "--rate", "nan"), "webhooks per second"),
        (("virtualsms", "sms.received", "--count", "0"), "--count"),
        (("virtualsms", "sms.received", "--order", "\udcff"), "UTF-8"),
    ],
)
def test_what_does_not_exist_is_wrong_usage(
    run_unconfigured: Run, words: tuple[str, ...], says: str
) -> None:
    """An undocumented combination is refused before anything is sent."""
    answer = run_unconfigured("simulate", *words)
    assert answer.code == 2
    assert says in " ".join(answer.err.replace("│", " ").split())


@pytest.mark.parametrize(
    ("provider", "variable"),
    [("virtualsms", "VIRTUALSMS_WEBHOOK_SECRETS"), ("daisysim", "DAISYSIM_WEBHOOK_TOKENS")],
)
def test_without_a_secret_nothing_can_be_signed(
    run_unconfigured: Run, monkeypatch: pytest.MonkeyPatch, provider: str, variable: str
) -> None:
    """The missing variable is named."""
    monkeypatch.delenv(variable)
    answer = run_unconfigured("simulate", provider, "sms.received")
    assert answer.code == 1
    assert variable in answer.err
