"""Webhooks over real sockets: authentic events are stored before the response."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import redis

from receiver import clock
from receiver.inbox import store as inbox
from receiver.inbox.group_commit import GroupCommit
from receiver.inbox.writer import InboxWriter
from receiver.providers.virtualsms import VirtualSMS
from tests.receiver.conftest import Log
from tests.receiver.database.locks import inbox_locked
from tests.receiver.web.conftest import UNLIMITED, Receiver, Start, read_all
from tests.support import webhooks
from tests.support.waiting import eventually
from tests.support.webhooks import Webhook

DIALECTS = {
    "v1": webhooks.virtualsms_v1(),
    "v2": webhooks.virtualsms_v2(),
    "v2 beside": webhooks.virtualsms_v2(nested=False, name_key="event"),
    "flat": webhooks.virtualsms_flat(),
    "token in the path": webhooks.daisysim(),
    "token in a header": webhooks.daisysim(token_in="header"),
}
# Bodies that no provider documents: first JSON objects.
SHAPES = [
    b"{}",
    b" { } ",
    b'{"type": 7, "data": []}',
    b'{"type": null, "event": {}, "data": {"order_id": []}}',
    b'{"id": ["evt"], "data": {"test": "perhaps"}}',
    b'{"id": "a\\u0000b"}',
    b'{"id": "\\ud800", "type": "\\udfff"}',
    b'{"id": ""}',
    b'{"id": "' + b"x" * 300 + b'"}',
    b'{"type": "order.sms_received", "data": {"code": 483921}}',
    b'{"type": "moon.landed"}',
    b'{"a": 1e999, "b": "[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[["}',
    b'{"": ""}',
    '{"text": "\u202e\U0001f511 \u0000"}'.replace("\x00", "\\u0000").encode(),
    json.dumps({str(number): number for number in range(4_000)}).encode(),
    # Anything but such an object.
    b"",
    b"code is 483921",
    b"event=code.received&code=483921",
    b"[]",
    b'"text"',
    b"null",
    b'\xef\xbb\xbf{"code":"483921"}',
    b'{"text":"caf\xe9"}',
    b'{"text":"two\nlines \x00"}',
    b'{"code":"483921"}\x00',
    b'{"code":"4839',
    b'{"a":NaN}',
    b'{"a":1,"a":2}',
    b'{"a":' * 40 + b"1" + b"}" * 40,
    b"[" * 60_000,
    b'{"a":' + b"9" * 10_000 + b"}",
]


@pytest.mark.parametrize("dialect", sorted(DIALECTS))
def test_every_dialect_is_accepted_once(receiver: Receiver, dialect: str) -> None:
    """The first request gets 202 and is stored unchanged; a repetition gets 200 and its id."""
    webhook = DIALECTS[dialect]
    first, again = receiver.send(webhook), receiver.send(webhook)
    (row,) = receiver.events()
    assert (first.status, first.json()) == (202, {"status": "accepted", "event": row.id})
    assert (again.status, again.json()) == (200, {"status": "duplicate", "event": row.id})
    assert first.headers["content-type"] == "application/json"
    assert inbox.open_body(receiver.store.vault, row) == webhook.body
    assert row.state == "pending"


@pytest.mark.parametrize("provider", ["virtualsms", "daisysim"])
def test_every_sample_is_accepted(receiver: Receiver, provider: str) -> None:
    """Each published body is stored byte for byte, including its formatting."""
    sign = webhooks.daisysim().with_body if provider == "daisysim" else webhooks.signed
    for path in webhooks.samples(provider):
        body = path.read_bytes()
        answer = receiver.send(sign(body))
        row = receiver.events()[-1]
        assert answer.json()["event"] == row.id, path
        assert (answer.status, answer.json()["status"]) == (
            (200, "test") if path.stem.endswith("_test") else (202, "accepted")
        )
        assert inbox.open_body(receiver.store.vault, row) == body


def test_both_databases_give_the_same_responses(store_url: str, start: Start) -> None:
    """New, duplicate, test and conflicting events get the same on SQLite and PostgreSQL."""
    receiver = start(store_url)
    first = webhooks.virtualsms_v1(event_id="evt_1", code="111111")
    other = webhooks.virtualsms_v1(event_id="evt_1", code="222222")
    test = webhooks.virtualsms_v1(test=True)
    answers = [receiver.send(webhook) for webhook in (first, first, other, other, test, test)]
    assert [(answer.status, answer.json()["status"]) for answer in answers] == [
        (202, "accepted"),
        (200, "duplicate"),
        (202, "accepted"),
        (200, "duplicate"),
        (200, "test"),
        (200, "duplicate"),
    ]
    assert sorted(row.state for row in receiver.events()) == ["ignored", "pending", "quarantined"]


def test_the_response_is_sent_only_after_the_commit(
    store_url: str, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the commit no byte is sent; after it, other connections see the row."""
    committing, proceed = threading.Event(), threading.Event()
    receiver = start(store_url)
    write = InboxWriter.write

    def slow(writer: InboxWriter, entries: list[inbox.InboxRow]) -> list[inbox.StoreResult]:
        committing.set()
        proceed.wait(10)
        return write(writer, entries)

    monkeypatch.setattr(InboxWriter, "write", slow)
    webhook = webhooks.virtualsms_v1()
    with receiver.connect() as connection:
        connection.sendall(request_bytes(webhook))
        assert committing.wait(10)
        connection.settimeout(0.2)
        with pytest.raises(TimeoutError):
            connection.recv(1)
        assert receiver.events() == []
        proceed.set()
        connection.settimeout(10)
        assert connection.recv(12) == b"HTTP/1.1 202"
        assert len(receiver.events()) == 1


def request_bytes(webhook: Webhook) -> bytes:
    """Return a webhook as a raw request."""
    headers = {"Host": "x", "Content-Length": str(len(webhook.body)), **webhook.headers}
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"POST {webhook.path} HTTP/1.1\r\n{lines}\r\n".encode() + webhook.body


def test_a_hundred_concurrent_duplicates_are_one_row(store_url: str, start: Start) -> None:
    """All get 2xx with the same id, and exactly one of them is new."""
    receiver = start(store_url)
    webhook = webhooks.virtualsms_v1()
    with ThreadPoolExecutor(25) as pool:
        answers = list(pool.map(lambda _: receiver.send(webhook), range(100)))
    (row,) = receiver.events()
    assert sorted(answer.status for answer in answers) == [200] * 99 + [202]
    assert {answer.json()["event"] for answer in answers} == {row.id}


def test_an_authentic_body_is_never_rejected_for_its_content(store_url: str, start: Start) -> None:
    """Any body is stored first, JSON or not, from either provider; parsing comes later."""
    receiver = start(store_url, **UNLIMITED)
    for body in SHAPES:
        for webhook in (webhooks.signed(body), webhooks.daisysim().with_body(body)):
            assert receiver.send(webhook).status == 202, body
    bodies = sorted(inbox.open_body(receiver.store.vault, row) or b"" for row in receiver.events())
    assert bodies == sorted(SHAPES * 2)
    assert {row.state for row in receiver.events()} == {"pending"}


@pytest.mark.parametrize("sender", [webhooks.signed, webhooks.daisysim().with_body])
def test_a_body_that_cannot_be_parsed_is_stored_once(
    receiver: Receiver, sender: Callable[[bytes], Webhook]
) -> None:
    """Its bytes are its key, since there is no id to read; a repetition is a duplicate."""
    for body in (b"", b'{"id":"evt_1","code":"1', b"\xef\xbb\xbf{}"):
        first, again = receiver.send(sender(body)), receiver.send(sender(body))
        assert (first.status, again.status) == (202, 200)
        assert again.json() == {"status": "duplicate", "event": first.json()["event"]}
    assert all(row.key.startswith("body:") for row in receiver.events())


@pytest.mark.parametrize("broken", ["event_key", "is_test", "may_recur"])
def test_a_bug_in_a_provider_refuses_no_event(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch, log: Log, broken: str
) -> None:
    """It is stored under the digest of its body, and the log says what happened."""

    def failing(*_: object) -> str:
        raise RecursionError(webhooks.CODE)

    monkeypatch.setattr(VirtualSMS, broken, failing)
    answer = receiver.send(webhooks.virtualsms_v2())
    assert answer.json()["status"] == "accepted"
    (line,) = log.of("event.key_failed")
    assert (line["provider"], line["error"]) == ("virtualsms", "RecursionError")
    assert webhooks.CODE not in log.text


def test_equal_deposits_are_two_events_after_the_providers_retries(
    store_url: str, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """25 USD on two days are two deposits; what comes within 16 hours is a repetition."""
    receiver = start(store_url)
    deposit = webhooks.virtualsms_v2(event="balance.deposited")
    now = datetime(2026, 3, 1, 12, tzinfo=UTC)
    answers = []
    for hours in (0, 15, 24, 24 + 15):
        at = now + timedelta(hours=hours)
        monkeypatch.setattr(clock, "now", lambda at=at: at)
        answers.append(receiver.send(deposit).json())
    assert [answer["status"] for answer in answers] == ["accepted", "duplicate"] * 2
    assert len({answer["event"] for answer in answers}) == 2


@pytest.mark.parametrize(
    ("header", "values"),
    [
        ("Content_Type", [None, "", "text/plain", "application/xml", "a;b;;c"]),
        ("Content_Encoding", ["identity", "", " Identity "]),
    ],
)
def test_what_the_headers_say_of_the_body_does_not_matter(
    receiver: Receiver, header: str, values: list[str | None]
) -> None:
    """Whatever the content type, with an explicit ``identity`` or an empty encoding."""
    for value in values:
        webhook = webhooks.virtualsms_v1(code=str(value)).with_headers(**{header: value})
        assert receiver.send(webhook).status == 202, value


def test_a_chunked_body_is_accepted(receiver: Receiver) -> None:
    """A chunked body within the limits is the same event as one with a length."""
    webhook = webhooks.virtualsms_v1()
    pieces = (webhook.body[at : at + 7] for at in range(0, len(webhook.body), 7))
    chunked = receiver.ask("POST", webhook.path, pieces, webhook.headers)
    assert chunked.status == 202
    assert receiver.send(webhook).json() == {
        "status": "duplicate",
        "event": chunked.json()["event"],
    }


def test_pipelined_events_are_all_stored(receiver: Receiver) -> None:
    """Pipelined requests get one response each, in order."""
    hooks = [webhooks.virtualsms_v1(code=f"00{number}") for number in range(5)]
    with receiver.connect() as connection:
        connection.sendall(b"".join(map(request_bytes, hooks[:-1])))
        last = request_bytes(hooks[-1]).replace(b"Host: x", b"Host: x\r\nConnection: close")
        connection.sendall(last)
        received = read_all(connection)
    assert received.count(b"HTTP/1.1 202") == 5
    assert len(receiver.events()) == 5


def test_an_accepted_event_wakes_the_worker_with_its_id_only(start: Start, broker_url: str) -> None:
    """The message has the id and no content; duplicates and tests send no message."""
    receiver = start(REDIS_URL=broker_url)
    webhook = webhooks.virtualsms_v1()
    event = receiver.send(webhook).json()["event"]
    receiver.send(webhook)
    receiver.send(webhooks.virtualsms_v1(test=True))
    with redis.Redis.from_url(broker_url) as client:
        name = "codecatch:codecatch.events"
        eventually(lambda: client.llen(name))
        message: Any = client.lrange(name, 0, -1)
    (body,) = [base64.b64decode(json.loads(one)["body"]) for one in message]
    assert json.loads(body)[:2] == [[[event]], {}]
    assert webhooks.CODE.encode() not in body


def test_events_are_accepted_without_a_broker(start: Start, log: Log) -> None:
    """A provider does not notice that the broker is down."""
    receiver = start(REDIS_URL="redis://127.0.0.1:1/0")
    for number in range(20):
        assert receiver.send(webhooks.virtualsms_v1(code=f"00{number}")).status == 202
    eventually(lambda: log.of("queue.wake_failed"))


def test_other_requests_are_served_while_a_commit_waits(receiver: Receiver) -> None:
    """A locked database delays only the requests that write to it."""
    with ThreadPoolExecutor(1) as pool, inbox_locked(receiver.store.url):
        waiting = pool.submit(receiver.send, webhooks.virtualsms_v1())
        for _ in range(5):
            assert receiver.ask("GET", "/healthz").status == 200
            assert receiver.send(webhooks.virtualsms_v1().with_body(b"{}")).status == 401
        assert not waiting.done()
    assert waiting.result(10).status == 202


def test_shutdown_finishes_pending_writes(receiver: Receiver) -> None:
    """An event in flight at shutdown is stored and gets its response."""
    with ThreadPoolExecutor(1) as pool, inbox_locked(receiver.store.url):
        waiting = pool.submit(receiver.send, webhooks.virtualsms_v1())
        group_commit: GroupCommit = receiver.app.state.services.group_commit
        eventually(lambda: group_commit._in_flight == 1)
        receiver.stop()
        with pytest.raises(OSError, match=r"refused|reset"):
            wait_until_refused(receiver)
    assert waiting.result(10).status == 202
    assert len(receiver.events()) == 1


def wait_until_refused(receiver: Receiver) -> None:
    """Connect again and again until the port is closed."""
    for _ in range(500):
        with receiver.connect() as connection:
            connection.settimeout(0.02)
            try:
                connection.recv(1)
            except TimeoutError:
                continue
