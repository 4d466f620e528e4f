"""What every kind of destination promises, asked of each kind."""

from __future__ import annotations

import abc
import base64
import io
import logging
import os
import time
import unicodedata
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import replace
from typing import Any

import pytest

from tests.worker.destinations.conftest import CUT, HANG, SMS, HttpStub, ScriptedSmtp
from worker.destinations import registry
from worker.destinations.apprise import Apprise
from worker.destinations.base import DeliveryError, Destination, Surroundings
from worker.destinations.console import Console
from worker.destinations.email import Email
from worker.destinations.slack import Slack
from worker.destinations.webhook import Webhook
from worker.http.client import HttpClient
from worker.messages.text import Texts

SHORT = 0.4
SLACK_IN_THE_CLOCK = 3.0
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


class FarSide(abc.ABC):
    """One destination and the power over whatever it talks to."""

    destination: Destination

    @abc.abstractmethod
    def refuse(self) -> None:
        """Turn the next notification down."""

    def pause(self) -> None:
        """Turn the next notification down and ask for a pause of seven seconds."""
        pytest.skip("no far side of this kind can ask for a pause in words that reach us")

    @abc.abstractmethod
    def hang(self) -> None:
        """Never answer."""

    @abc.abstractmethod
    def lose_answer(self) -> None:
        """Take the next notification and leave it open whether it was taken."""

    @abc.abstractmethod
    def shown(self) -> list[str]:
        """Each notification that arrived, as the text that a reader's program is given."""


class _HttpSide(FarSide):
    """An HTTP server in the place of whatever is told."""

    def __init__(self, stub: HttpStub) -> None:
        self.stub = stub

    def refuse(self) -> None:
        self.stub.status, self.stub.body = 404, b"483921 is not here"

    def hang(self) -> None:
        self.stub.fault = HANG

    def lose_answer(self) -> None:
        self.stub.fault = CUT

    def shown(self) -> list[str]:
        return ["\n".join(_strings(message)) for message in self.stub.messages]


class _SlackSide(_HttpSide):
    """Slack, and an HTTP server in its place."""

    def __init__(self, stub: HttpStub) -> None:
        class Quick(Slack):
            deadline = SHORT

        super().__init__(stub)
        self.destination = Quick("qa", url=stub.url, http=stub.client())

    def refuse(self) -> None:
        self.stub.status, self.stub.body = 404, b"no_service"

    def pause(self) -> None:
        self.stub.status, self.stub.headers = 429, {"retry-after": "7"}


class _WebhookSide(_HttpSide):
    """A signed webhook, and an HTTP server in the place of its receiver."""

    def __init__(self, stub: HttpStub) -> None:
        class Quick(Webhook):
            deadline = SHORT

        super().__init__(stub)
        self.destination = Quick("hook", url=stub.url, secrets=[SECRET], http=stub.client())

    def pause(self) -> None:
        self.stub.status, self.stub.headers = 503, {"retry-after": "7"}


class _AppriseSide(_HttpSide):
    """Apprise, and an HTTP server for its generic JSON."""

    def __init__(self, stub: HttpStub) -> None:
        class Quick(Apprise):
            deadline = SHORT

        super().__init__(stub)
        url = f"json://127.0.0.1:{stub.port}/webhooksecret"
        self.destination = Quick("chat", url=url, http=stub.client())

    def shown(self) -> list[str]:
        return [f"{each['title']}\n{each['message']}" for each in self.stub.messages]


class _EmailSide(FarSide):
    """E-mail, and a scripted server in place of a mail server."""

    def __init__(self, server: ScriptedSmtp) -> None:
        class Quick(Email):
            deadline = SHORT

        self.server = server
        url = f"smtp://127.0.0.1:{server.port}"
        self.destination = Quick(
            "mail", smtp_url=url, sender="codecatch@example.org", recipients=["qa@example.org"]
        )

    def refuse(self) -> None:
        self.server.answers["RCPT"] = "550 no such user qa@example.org"

    def hang(self) -> None:
        self.server.answers["GREETING"] = HANG

    def lose_answer(self) -> None:
        self.server.answers["BODY"] = CUT

    def shown(self) -> list[str]:
        texts = []
        for message in self.server.parsed():
            parts = [part.get_content() for part in message.walk() if not part.is_multipart()]
            # CR LF is how mail ends a line; a CR of its own would be a stranger's.
            texts.append("\n".join([message["Subject"], *parts]).replace("\r\n", "\n"))
        return texts


class _ConsoleSide(FarSide):
    """The console, and a pipe in place of a terminal."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        class Quick(Console):
            deadline = SHORT

        self.monkeypatch = monkeypatch
        self.reader, self.writer = os.pipe()
        self.destination = Quick("terminal", descriptor=self.writer)

    def refuse(self) -> None:
        os.close(self.reader)

    def hang(self) -> None:
        os.set_blocking(self.writer, False)
        with suppress(BlockingIOError):
            while True:
                os.write(self.writer, b"x" * 65536)
        os.set_blocking(self.writer, True)

    def lose_answer(self) -> None:
        whole = os.write

        def half(descriptor: int, data: bytes) -> int:
            return whole(descriptor, data[:10] if descriptor == self.writer else data)

        self.monkeypatch.setattr(os, "write", half)

    def shown(self) -> list[str]:
        return os.read(self.reader, 1 << 16).decode().splitlines()

    def close(self) -> None:
        for descriptor in (self.reader, self.writer):
            with suppress(OSError):
                os.close(descriptor)


@pytest.fixture(params=KINDS)
def far_side(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[FarSide]:
    """Each kind in turn."""
    make: dict[str, Callable[[], FarSide]] = {
        "slack": lambda: _SlackSide(request.getfixturevalue("slack_stub")),
        "email": lambda: _EmailSide(request.getfixturevalue("scripted_smtp")),
        "console": lambda: _ConsoleSide(monkeypatch),
        "webhook": lambda: _WebhookSide(request.getfixturevalue("slack_stub")),
        "apprise": lambda: _AppriseSide(request.getfixturevalue("slack_stub")),
    }
    side = make[request.param]()
    yield side
    if isinstance(side, _ConsoleSide):
        side.close()


@pytest.fixture
def log() -> Iterator[io.StringIO]:
    """All that a process with ``LOG_LEVEL=debug`` would write."""
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


def test_success_returns_none_and_shows_the_code(far_side: FarSide, log: io.StringIO) -> None:
    """A notification that is taken raises nothing, arrives once, and no log has its secrets."""
    far_side.destination.send([SMS])

    assert not [secret for secret in SECRETS if secret in log.getvalue()]

    (shown,) = far_side.shown()
    assert "483921" in shown
    assert "telegram" in shown
    assert "+447700900123" in shown


def test_refusal_raises_without_secrets(far_side: FarSide, log: io.StringIO) -> None:
    """A refusal is no doubtful outcome, and neither it, its cause nor a log holds a secret."""
    far_side.refuse()

    with pytest.raises(DeliveryError) as caught:
        far_side.destination.send([SMS])

    assert not caught.value.unknown
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None or caught.value.__suppress_context__
    for secret in SECRETS:
        assert secret not in caught.value.reason
        assert secret not in log.getvalue()


def test_silence_ends_at_the_deadline(far_side: FarSide) -> None:
    """A far side that never answers costs no more than the deadline, and another try may help."""
    far_side.hang()
    started = time.monotonic()

    with pytest.raises(DeliveryError) as caught:
        far_side.destination.send([SMS])

    assert time.monotonic() - started < SHORT + SLACK_IN_THE_CLOCK
    assert not caught.value.permanent


def test_pause_is_passed_on(far_side: FarSide) -> None:
    """What the far side asks for reaches whoever plans the next attempt."""
    far_side.pause()

    with pytest.raises(DeliveryError) as caught:
        far_side.destination.send([SMS])

    assert caught.value.retry_after == 7.0
    assert not caught.value.permanent


def test_several_together(far_side: FarSide) -> None:
    """As many as one message may tell are told in one message, each once, oldest first."""
    number = far_side.destination.most_together
    codes = [f"9{place:05}" for place in range(number)]
    far_side.destination.send([replace(SMS, code=code, text=None) for code in codes])

    (shown,) = far_side.shown()
    places = [shown.index(code) for code in codes]
    assert places == sorted(places)


def test_several_hostile_ones_are_inert(far_side: FarSide) -> None:
    """Where several share a message, no stranger's mark gets through to the others."""
    far_side.destination.send([HOSTILE] * min(2, far_side.destination.most_together))

    (shown,) = far_side.shown()
    bad = {c for c in shown if unicodedata.category(c) in {"Cc", "Cf", "Cs", "Zl", "Zp"}}
    assert bad <= {"\n"}


def test_lost_answer_is_unknown(far_side: FarSide) -> None:
    """A notification that may have arrived is neither a success nor a failure."""
    far_side.lose_answer()

    with pytest.raises(DeliveryError) as caught:
        far_side.destination.send([SMS])

    assert caught.value.unknown
    assert not caught.value.permanent


def test_hostile_words_arrive_inert(far_side: FarSide) -> None:
    """No control character, terminal sequence or reordering mark of a stranger gets through."""
    far_side.destination.send([HOSTILE])

    (shown,) = far_side.shown()
    bad = {c for c in shown if unicodedata.category(c) in {"Cc", "Cf", "Cs", "Zl", "Zp"}}
    assert bad <= {"\n"}
    assert "4839`21" in shown


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"type": "operators", "detail": "Destination qa is dead."}, "Destination qa is dead."),
        ({"type": "balance.low", "detail": "3.20 USD are left."}, "3.20 USD are left."),
        ({"type": "order.expired"}, "order expired"),
        ({"type": "sms.received"}, "new code"),
    ],
)
def test_every_type_has_words(far_side: FarSide, change: dict[str, Any], expected: str) -> None:
    """A notification of any type, with or without facts, is taken and says what it is about."""
    bare = replace(
        SMS, code=None, text=None, order_id=None, phone_number=None, service=None, country=None
    )
    far_side.destination.send([replace(bare, received_at=None, **change)])

    (shown,) = far_side.shown()
    if isinstance(far_side, _WebhookSide) and "detail" not in change:
        expected = change["type"]  # a program reads it
    assert expected in shown
    assert "None" not in shown


def test_several_threads_at_once(far_side: FarSide) -> None:
    """Notifications sent from several threads all arrive, each whole."""
    codes = [f"90000{number}" for number in range(4)]
    with ThreadPoolExecutor(len(codes)) as pool:
        list(pool.map(lambda code: far_side.destination.send([replace(SMS, code=code)]), codes))

    shown = far_side.shown()
    assert len(shown) == len(codes)
    assert all(any(code in each for each in shown) for code in codes)


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
    """A destination of a table of the configuration."""
    found = registry.discover()[kind]
    http = HttpClient(allowed_hosts=["hooks.slack.com", "named.example"])
    with closing(http):
        surroundings = Surroundings(http, Texts(), ENVIRONMENT)
        return found.make("qa", found.options_type.model_validate(options), surroundings)


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
    """Each kind is made of the options it names, and nothing is contacted."""
    made = make(kind, options)

    assert (made.name, made.kind) == ("qa", kind)
    assert "webhooksecret" not in repr(made)


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
            ("webhook", {"url_env": "GOOD_URL", "secret_env": name}, f"^secret_env: .*{name} wants")
            for name in ("SHORT_SECRET", "NO_BASE64", "BARE_SECRET")
        ),
        ("apprise", {"url_env": "FAR_NTFY"}, "^url_env: .*FAR_NTFY.*DESTINATION_ALLOWED_HOSTS"),
        ("apprise", {"url_env": "MAIL"}, "^url_env: .*MAIL.*email"),
    ],
)
def test_options_that_cannot_work(kind: str, options: dict[str, Any], words: str) -> None:
    """What cannot work is refused by option and variable, and never by repeating a value."""
    with pytest.raises(ValueError, match=words) as caught:
        make(kind, options)

    assert "webhooksecret" not in str(caught.value)
    assert caught.value.__context__ is None or caught.value.__suppress_context__
