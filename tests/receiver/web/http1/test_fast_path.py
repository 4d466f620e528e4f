"""The short way of whole webhooks leads to the same answers as the long one."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from receiver.providers.virtualsms import VirtualSMS
from receiver.web.http1.fast_path import FastPath
from tests.receiver.conftest import Log
from tests.receiver.web.conftest import Answer, Receiver, Start
from tests.receiver.web.raw import answers_in, read_answer, request_of
from tests.support import webhooks
from tests.support.waiting import eventually
from tests.support.webhooks import Webhook

GOOD = webhooks.virtualsms_v1()
FORGED = GOOD.with_body(b"{}")
NO_JSON = webhooks.signed(b"[")
CODED = GOOD.with_headers(Content_Encoding="gzip")
# Over what is kept, but small enough to come with its head.
LARGE = webhooks.signed(b'{"x": "' + b"x" * 66_000 + b'"}')
Way = Callable[[Receiver, Webhook], Answer]


def whole(receiver: Receiver, webhook: Webhook) -> Answer:
    """Send it in one segment."""
    with receiver.connect() as connection:
        connection.sendall(request_of(webhook))
        return read_answer(connection)


def late(receiver: Receiver, webhook: Webhook) -> Answer:
    """Send its body only when the receiver asks for that, or refuses it."""
    head, _, body = request_of(webhook, "Expect: 100-continue").partition(b"\r\n\r\n")
    with receiver.connect() as connection:
        connection.sendall(head + b"\r\n\r\n")
        begun = connection.recv(65_536)
        if not begun.startswith(b"HTTP/1.1 100 "):
            (refusal,) = answers_in(begun)
            return refusal
        connection.sendall(body)
        return read_answer(connection)


@pytest.fixture
def express(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The paths of the requests that took the short way."""
    taken: list[str] = []
    really = FastPath.serve

    def serve(*given: object) -> None:
        taken.append(given[1].scope["path"])  # type: ignore[attr-defined]
        really(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(FastPath, "serve", serve)
    return taken


@pytest.mark.parametrize("way", [whole, late])
@pytest.mark.parametrize(
    ("webhook", "status"),
    [(GOOD, 202), (FORGED, 401), (NO_JSON, 400), (CODED, 415), (LARGE, 413)],
    ids=["good", "forged", "no JSON", "coded", "large"],
)
def test_both_ways_end_alike(
    receiver: Receiver, log: Log, way: Way, webhook: Webhook, status: int
) -> None:
    """The same status, the same line in the log, and what is good is stored."""
    answer = way(receiver, webhook)
    assert answer.status == status
    (line,) = eventually(lambda: log.of("request.answered"))
    assert (line["method"], line["route"], line["status"]) == ("POST", "virtualsms", status)
    assert line["event_id" if status == 202 else "reason"]
    if status == 202:
        assert way(receiver, webhook).json() == {"status": "duplicate", "event": line["event_id"]}
    else:
        assert answer.problem(status)


def test_who_takes_which_way(receiver: Receiver, express: list[str]) -> None:
    """A whole webhook the short one; one whose body comes later, or with a token, the long one."""
    assert late(receiver, GOOD).status == 202
    assert whole(receiver, webhooks.daisysim()).status == 202
    assert receiver.ask("GET", GOOD.path).status == 405
    assert express == []
    assert whole(receiver, GOOD).status == 200
    assert express == [GOOD.path]


def test_behind_a_proxy_all_take_the_long_way(start: Start, express: list[str]) -> None:
    """There the sender's address is in a header, which uvicorn's middleware reads."""
    receiver = start(FORWARDED_ALLOW_IPS="127.0.0.1")
    assert whole(receiver, GOOD).status == 202
    assert express == []


@pytest.mark.parametrize("way", [whole, late])
def test_a_bug_of_ours_is_503(
    receiver: Receiver, log: Log, monkeypatch: pytest.MonkeyPatch, way: Way
) -> None:
    """The sender is asked to come again, and finds the receiver well."""

    def broken(*_: object) -> str:
        raise ZeroDivisionError

    with monkeypatch.context() as patch:
        patch.setattr(VirtualSMS, "event_key", broken)
        assert way(receiver, GOOD).problem(503) == "the event could not be stored"
    assert eventually(lambda: log.of("request.broke"))[0]["error"] == "ZeroDivisionError"
    assert way(receiver, GOOD).status == 202


def test_many_on_one_connection_are_answered_in_their_order(receiver: Receiver) -> None:
    """Some are whole, some come in two segments, and each has its answer before the next."""
    request = request_of(GOOD)
    with receiver.connect() as connection:
        events = []
        for cut in (len(request), 40, len(request), len(request) - 5):
            connection.sendall(request[:cut])
            connection.sendall(request[cut:])
            events.append(read_answer(connection).json()["event"])
    assert len(events) == 4
    assert len(set(events)) == 1
