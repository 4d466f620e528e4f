"""The contract of every kind of destination, tested with each kind."""

from __future__ import annotations

import abc
import base64
import io
import logging
import os
import socket
import time
import unicodedata
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import replace
from typing import Any, TypeVar

import pytest

from tests.support.http_server import Request
from tests.worker.destinations.conftest import CUT, HANG, SMS, HttpStub, ScriptedSmtp
from worker.destinations import registry
from worker.destinations.apprise import Apprise
from worker.destinations.base import DeliveryError, Destination, DestinationContext
from worker.destinations.console import Console
from worker.destinations.email import Email
from worker.destinations.slack import Slack
from worker.destinations.smtp.url import SmtpServer
from worker.destinations.webhook import Webhook
from worker.http.client import HttpClient
from worker.messages.text import Texts

SHORT = 0.2
SLACK_IN_THE_CLOCK = 3.0
Kind = TypeVar("Kind", bound=Destination)
KINDS = sorted(registry.discover())
SECRET = "whsec_" + base64.b64encode(b"k" * 32).decode()
SECRETS = (
    "483921",
    "+447700900123",
    "webhooksecret",
    "correct",
    "qa@example.org",
    "ord-771",
    SECRET[6:],
)

HOSTILE = replace(
    SMS,
    service="\x1b[31m*bold*\x1b]0;title\x07 <!channel>",
    order_id="7\r\nBcc: evil@example.org",
    phone_number="+44\u202e321\u2066`\x00",
    country="<script>alert(1)</script>",
    code="48\u200b39`21\u202e",
    text="<!here> ```\r\n.\r\n\u2028 &lt; \x9b2J \ud800 <img src=x>",
    marks=("not\tverified",),
    detail="see <https://evil.example|here>\x1b[8m",
)


def separate(kind: type[Kind]) -> type[Kind]:
    """The same kind of destination as a class of its own, whose deadline a test may shorten."""
    return type("Separate", (kind,), {})


class RemoteService(abc.ABC):
    """One destination, and control over its remote service."""

    destination: Destination

    @abc.abstractmethod
    def refuse(self) -> None:
        """Refuse the next message."""

    def pause(self) -> None:
        """Refuse the next message and ask for a pause of seven seconds."""
        pytest.skip("a service of this kind cannot ask for a pause")

    def leave(self) -> None:
        """Be out of reach from now on."""
        pytest.skip("a service of this kind is always in reach")

    @abc.abstractmethod
    def hang(self) -> None:
        """Never answer."""

    @abc.abstractmethod
    def lose_response(self) -> None:
        """Accept the next message, but do not say so."""

    @abc.abstractmethod
    def arrived(self) -> list[str]:
        """The text of each message that arrived, as a reader's program gets it."""


class _HttpService(RemoteService):
    """An HTTP server in place of the remote service."""

    def __init__(self, stub: HttpStub) -> None:
        self.stub = stub

    def refuse(self) -> None:
        self.stub.status, self.stub.body = 404, b"483921 is not here"

    def leave(self) -> None:
        self.stub.server.close()

    def hang(self) -> None:
        self.stub.fault = HANG

    def lose_response(self) -> None:
        self.stub.fault = CUT

    def arrived(self) -> list[str]:
        return ["\n".join(_strings(message)) for message in map(Request.json, self.stub.requests)]


class _SlackService(_HttpService):
    """Slack, and an HTTP server in its place."""

    def __init__(self, stub: HttpStub) -> None:
        super().__init__(stub)
        self.destination = separate(Slack)("qa", url=stub.url, http=stub.client())

    def refuse(self) -> None:
        self.stub.status, self.stub.body = 404, b"no_service"

    def pause(self) -> None:
        self.stub.status, self.stub.headers = 429, {"retry-after": "7"}


class _WebhookService(_HttpService):
    """A signed webhook, and an HTTP server in place of its receiver."""

    def __init__(self, stub: HttpStub) -> None:
        super().__init__(stub)
        self.destination = separate(Webhook)(
            "hook", url=stub.url, secrets=[SECRET], http=stub.client()
        )

    def pause(self) -> None:
        self.stub.status, self.stub.headers = 503, {"retry-after": "7"}


class _AppriseService(_HttpService):
    """Apprise, and an HTTP server for its generic JSON."""

    def __init__(self, stub: HttpStub) -> None:
        super().__init__(stub)
        url = f"json://127.0.0.1:{stub.server.port}/webhooksecret"
        self.destination = separate(Apprise)("chat", url=url, http=stub.client())

    def arrived(self) -> list[str]:
        messages = map(Request.json, self.stub.requests)
        return [f"{each['title']}\n{each['message']}" for each in messages]


class _EmailService(RemoteService):
    """E-mail, and a scripted server in place of a mail server."""

    def __init__(self, server: ScriptedSmtp) -> None:
        self.server = server
        self.destination = separate(Email)(
            "mail",
            server=SmtpServer("127.0.0.1", server.port),
            sender="codecatch@example.org",
            recipients=["qa@example.org"],
        )

    def refuse(self) -> None:
        self.server.answers["RCPT"] = "550 no such user qa@example.org"

    def leave(self) -> None:
        self.server.listener.shutdown(socket.SHUT_RDWR)

    def hang(self) -> None:
        self.server.answers["GREETING"] = HANG

    def lose_response(self) -> None:
        self.server.answers["BODY"] = CUT

    def arrived(self) -> list[str]:
        texts = []
        for message in self.server.parsed():
            parts = [part.get_content() for part in message.walk() if not part.is_multipart()]
            # Mail has CR LF line ends; any other CR would come from untrusted text.
            texts.append("\n".join([message["Subject"], *parts]).replace("\r\n", "\n"))
        return texts


class _ConsoleService(RemoteService):
    """The console, and a pipe in place of a terminal."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.monkeypatch = monkeypatch
        self.reader, self.writer = os.pipe()
        self.destination = separate(Console)("terminal", descriptor=self.writer)

    def refuse(self) -> None:
        os.close(self.reader)

    def hang(self) -> None:
        os.set_blocking(self.writer, False)
        with suppress(BlockingIOError):
            while True:
                os.write(self.writer, b"x" * 65536)
        os.set_blocking(self.writer, True)

    def lose_response(self) -> None:
        whole = os.write

        def half(descriptor: int, data: bytes) -> int:
            return whole(descriptor, data[:10] if descriptor == self.writer else data)

        self.monkeypatch.setattr(os, "write", half)

    def arrived(self) -> list[str]:
        return os.read(self.reader, 1 << 16).decode().splitlines()

    def close(self) -> None:
        for descriptor in (self.reader, self.writer):
            with suppress(OSError):
                os.close(descriptor)


@pytest.fixture(params=KINDS)
def remote(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[RemoteService]:
    """One destination of each kind."""
    make: dict[str, Callable[[], RemoteService]] = {
        "slack": lambda: _SlackService(request.getfixturevalue("slack_stub")),
        "email": lambda: _EmailService(request.getfixturevalue("scripted_smtp")),
        "console": lambda: _ConsoleService(monkeypatch),
        "webhook": lambda: _WebhookService(request.getfixturevalue("slack_stub")),
        "apprise": lambda: _AppriseService(request.getfixturevalue("slack_stub")),
    }
    service = make[request.param]()
    yield service
    if isinstance(service, _ConsoleService):
        service.close()


@pytest.fixture
def log() -> Iterator[io.StringIO]:
    """The log of a process with ``LOG_LEVEL=debug``."""
    root, written = logging.getLogger(), io.StringIO()
    handler, level = logging.StreamHandler(written), root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    yield written
    root.setLevel(level)
    root.removeHandler(handler)


def _strings(value: Any) -> Iterator[str]:
    match value:
        case str():
            yield value
        case dict():
            for each in value.values():
                yield from _strings(each)
        case list():
            for each in value:
                yield from _strings(each)


def test_success_returns_none_and_shows_the_code(remote: RemoteService, log: io.StringIO) -> None:
    """An accepted notification raises nothing, arrives once, and no log has its secrets."""
    remote.destination.send([SMS])

    assert not [secret for secret in SECRETS if secret in log.getvalue()]

    (arrived,) = remote.arrived()
    assert "483921" in arrived
    assert "telegram" in arrived
    assert "+447700900123" in arrived


def test_refusal_raises_without_secrets(remote: RemoteService, log: io.StringIO) -> None:
    """The outcome of a refusal is known; neither error, cause nor log holds a secret."""
    remote.refuse()

    with pytest.raises(DeliveryError) as caught:
        remote.destination.send([SMS])

    assert not caught.value.unknown
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None or caught.value.__suppress_context__
    for secret in SECRETS:
        assert secret not in caught.value.reason
        assert secret not in log.getvalue()


def test_silence_ends_at_the_deadline(remote: RemoteService) -> None:
    """A service that never answers takes no longer than the deadline; a retry may help."""
    remote.hang()
    type(remote.destination).deadline = SHORT
    started = time.monotonic()

    with pytest.raises(DeliveryError) as caught:
        remote.destination.send([SMS])

    assert time.monotonic() - started < SHORT + SLACK_IN_THE_CLOCK
    assert not caught.value.permanent


def test_unreachable_is_temporary(remote: RemoteService) -> None:
    """A refused connection proves that the service does not have the message."""
    remote.leave()

    with pytest.raises(DeliveryError) as caught:
        remote.destination.send([SMS])

    assert (caught.value.permanent, caught.value.unknown) == (False, False)


def test_pause_is_passed_on(remote: RemoteService) -> None:
    """The error has the pause that the service asked for."""
    remote.pause()

    with pytest.raises(DeliveryError) as caught:
        remote.destination.send([SMS])

    assert caught.value.retry_after == 7.0
    assert not caught.value.permanent


def test_several_together(remote: RemoteService) -> None:
    """``max_batch`` notifications arrive in one message, each once, oldest first."""
    number = remote.destination.max_batch
    codes = [f"9{place:05}" for place in range(number)]
    remote.destination.send([replace(SMS, code=code, text=None) for code in codes])

    (arrived,) = remote.arrived()
    places = [arrived.index(code) for code in codes]
    assert places == sorted(places)


def test_lost_answer_is_unknown(remote: RemoteService) -> None:
    """A message that may have arrived is neither a success nor a failure."""
    remote.lose_response()

    with pytest.raises(DeliveryError) as caught:
        remote.destination.send([SMS])

    assert caught.value.unknown
    assert not caught.value.permanent


@pytest.mark.parametrize("number", [1, 2])
def test_hostile_words_arrive_inert(remote: RemoteService, number: int) -> None:
    """No control character, terminal sequence or bidirectional mark arrives, of one or several."""
    remote.destination.send([HOSTILE] * min(number, remote.destination.max_batch))

    (arrived,) = remote.arrived()
    bad = {c for c in arrived if unicodedata.category(c) in {"Cc", "Cf", "Cs", "Zl", "Zp"}}
    assert bad <= {"\n"}
    assert number > 1 or "4839`21" in arrived


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"type": "operators", "detail": "Destination qa is dead."}, "Destination qa is dead."),
        ({"type": "balance.low", "detail": "3.20 USD are left."}, "3.20 USD are left."),
        ({"type": "order.expired"}, "order expired"),
        ({"type": "sms.received"}, "new code"),
    ],
)
def test_every_type_has_words(remote: RemoteService, change: dict[str, Any], expected: str) -> None:
    """A notification of any type, with or without fields, says what it is about."""
    bare = replace(
        SMS, code=None, text=None, order_id=None, phone_number=None, service=None, country=None
    )
    remote.destination.send([replace(bare, received_at=None, **change)])

    (arrived,) = remote.arrived()
    if isinstance(remote, _WebhookService) and "detail" not in change:
        expected = change["type"]  # a program reads it
    assert expected in arrived
    assert "None" not in arrived


def test_several_threads_at_once(remote: RemoteService) -> None:
    """Notifications sent from several threads all arrive, each whole."""
    codes = [f"90000{number}" for number in range(4)]
    with ThreadPoolExecutor(len(codes)) as pool:
        list(pool.map(lambda code: remote.destination.send([replace(SMS, code=code)]), codes))

    arrived = remote.arrived()
    assert len(arrived) == len(codes)
    assert all(any(code in each for each in arrived) for code in codes)


ENVIRONMENT = {
    "GOOD_URL": "https://hooks.slack.com/services/T000/B000/webhooksecret",
    "FAR_URL": "https://elsewhere.example/webhooksecret",
    "PLAIN_URL": "http://hooks.slack.com/webhooksecret",
    "SMTP": "smtp://me:webhooksecret@mail.example",
    "NTFY": "ntfys://named.example/webhooksecret",
    "FAR_NTFY": "ntfys://elsewhere.example/webhooksecret",
    "DISCORD": "discord://123456789012345678/webhooksecret-webhooksecret",
    "MAIL": "mailto://me:webhooksecret@gmail.com",
    "SECRET": SECRET,
    "SHORT_SECRET": "whsec_d2ViaG9va3NlY3JldA==",
    "NO_BASE64": SECRET + "!webhooksecret!",
    "BARE_SECRET": SECRET.removeprefix("whsec_"),
    "EMPTY": " ",
}


def make(kind: str, options: dict[str, Any]) -> Destination:
    """Make a destination from a table of the configuration."""
    found = registry.discover()[kind]
    http = HttpClient(allowed_hosts=["hooks.slack.com", "named.example"])
    with closing(http):
        context = DestinationContext(http, Texts(), ENVIRONMENT)
        return found.make("qa", found.options_type.model_validate(options), context)


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("slack", {"url_env": "GOOD_URL"}),
        ("email", {"url_env": "SMTP", "from": "a@example.org", "to": ["b@example.org"]}),
        ("webhook", {"url_env": "GOOD_URL", "secret_env": "SECRET"}),
        ("apprise", {"url_env": "NTFY"}),
        ("apprise", {"url_env": "DISCORD"}),
        ("console", {}),
    ],
)
def test_made_of_its_options(kind: str, options: dict[str, Any]) -> None:
    """Each kind can be made from its options, without any I/O."""
    destination = make(kind, options)

    assert (destination.name, destination.kind) == ("qa", kind)
    assert "webhooksecret" not in repr(destination)


@pytest.mark.parametrize(
    ("kind", "options", "words"),
    [
        ("slack", {"url_env": "MISSING"}, r"^url_env: .*MISSING"),
        ("slack", {"url_env": "EMPTY"}, r"^url_env: .*EMPTY"),
        ("slack", {"url_env": "FAR_URL"}, r"^url_env: .*FAR_URL.*DESTINATION_ALLOWED_HOSTS"),
        ("slack", {"url_env": "PLAIN_URL"}, r"^url_env: .*PLAIN_URL.*TLS"),
        ("email", {"url_env": "GOOD_URL", "from": "a@b.c", "to": ["a@b.c"]}, "^url_env: .*smtp://"),
        ("email", {"url_env": "SMTP", "from": "nobody", "to": ["a@b.c"]}, "^from: "),
        ("email", {"url_env": "SMTP", "from": "a@b.c", "to": ["nobody"]}, "^to: "),
        ("email", {"url_env": "SMTP", "from": "a@b.c", "to": []}, "^to: "),
        ("webhook", {"url_env": "FAR_URL", "secret_env": "SECRET"}, "^url_env: .*FAR_URL"),
        ("webhook", {"url_env": "GOOD_URL", "secret_env": "MISSING"}, "^secret_env: .*MISSING"),
        *(
            (
                "webhook",
                {"url_env": "GOOD_URL", "secret_env": name},
                f"^secret_env: .*{name} must hold",
            )
            for name in ("SHORT_SECRET", "NO_BASE64", "BARE_SECRET")
        ),
        ("apprise", {"url_env": "FAR_NTFY"}, "^url_env: .*FAR_NTFY.*DESTINATION_ALLOWED_HOSTS"),
        ("apprise", {"url_env": "MAIL"}, "^url_env: .*MAIL.*email"),
    ],
)
def test_options_that_cannot_work(kind: str, options: dict[str, Any], words: str) -> None:
    """The error names option and variable, and never shows a value."""
    with pytest.raises(ValueError, match=words) as caught:
        make(kind, options)

    assert "webhooksecret" not in str(caught.value)
    assert caught.value.__context__ is None or caught.value.__suppress_context__
