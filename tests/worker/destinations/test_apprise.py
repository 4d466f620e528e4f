"""Apprise, besides the contract: allowed services, errors, deadline and markup."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace

import pytest

from tests.support.http_server import HttpServer
from tests.support.waiting import eventually
from tests.worker.destinations.conftest import SMS
from worker.destinations._apprise_service import escape_markup, open_service
from worker.destinations.apprise import Apprise
from worker.destinations.base import DeliveryError
from worker.http.client import HttpClient
from worker.messages.text import Notification

DISCORD = "discord://123456789012345678/" + "t" * 30
HOSTILE = "@everyone <@123> *bold* _x_ `y` [here](https://evil.example) ~~z~~ ||q|| # h \\*"


class LocalService:
    """A server on this machine, and destinations that use it."""

    def __init__(self, server: HttpServer) -> None:
        self.server = server
        self.host = f"127.0.0.1:{server.port}"
        self.http = HttpClient(allowed_hosts=[self.host], plain_http_hosts=[self.host])
        server.on("*", "**", json={})

    def destination(self, schema: str, rest: str = "/topic", *, seconds: float = 10.0) -> Apprise:
        """A destination with a URL of this server."""

        class Quick(Apprise):
            deadline = seconds

        return Quick("chat", url=f"{schema}://{self.host}{rest}", http=self.http)

    def failure(self, destination: Apprise, notification: Notification = SMS) -> DeliveryError:
        """The error of sending one notification."""
        with pytest.raises(DeliveryError) as caught:
            destination.send([notification])
        return caught.value


@pytest.fixture
def service() -> Iterator[LocalService]:
    """A server that accepts everything by default."""
    with HttpServer() as server:
        service = LocalService(server)
        with closing(service.http):
            yield service


@pytest.mark.parametrize(
    ("schema", "rest", "key"),
    [
        ("json", "/x", "message"),
        ("ntfy", "/topic", "message"),
        ("gotify", "/abcdefghijklmno", "message"),
        ("mmost", "/abcdefghijklmnopqrstuvwxyz", "text"),
    ],
)
def test_services_on_a_named_host(service: LocalService, schema: str, rest: str, key: str) -> None:
    """A self-hosted service on an allowed host gets messages."""
    service.destination(schema, rest).send([SMS])

    (request,) = service.server.requests()
    assert "483921" in request.json()[key]


@pytest.mark.parametrize("schema", ["json", "ntfy", "gotify"])
@pytest.mark.parametrize(
    ("status", "permanent"),
    [(301, False), (400, True), (401, True), (404, True), (408, False), (429, False), (503, False)],
)
def test_refusals(service: LocalService, schema: str, status: int, permanent: bool) -> None:
    """The status that Apprise logs decides on a retry; redirects are not followed."""
    service.server.on("*", "**", status=status, headers={"location": f"{service.server.url}/other"})
    error = service.failure(service.destination(schema, "/abcdefghijklmno?redirect=yes&retry=3"))

    assert (error.permanent, error.unknown) == (permanent, False)
    assert (error.message_only, error.foreign) == (status == 400, status == 301)
    assert str(status) in error.reason
    assert len(service.server.requests()) == 1


@pytest.mark.parametrize("schema", ["json", "ntfy", "gotify"])
@pytest.mark.parametrize("status", [400, 403, 404])
def test_a_page_is_not_the_services_answer(service: LocalService, schema: str, status: int) -> None:
    """A proxy may have sent it: never final. A text that contains one does not count."""
    service.server.on("*", "**", status=status, body=b"\r\n<!DOCTYPE html><p>denied</p>")
    error = service.failure(service.destination(schema, "/abcdefghijklmno"))
    assert (error.permanent, error.foreign) == (False, True)

    service.server.on("*", "**", status=status, body=b"denied <html>")
    words = "Response Details:\r\nb'<!doctype html>"
    named = replace(SMS, text=words, service=words)
    assert service.failure(service.destination(schema, "/abcdefghijklmno"), named).permanent


def test_untrusted_text_is_not_taken_for_the_log(service: LocalService) -> None:
    """A text that looks like Apprise's log does not change the error."""
    service.server.on("*", "**", cut=True)
    words = "error=404\nSocket Exception: NewConnectionError (404)"
    error = service.failure(service.destination("json"), replace(SMS, text=words, service=words))

    assert (error.permanent, error.unknown) == (False, True)


def test_dribbling_answer_ends_at_the_deadline(service: LocalService) -> None:
    """An endless response blocks only its own thread, and the number of threads is limited."""
    service.server.on("*", "**", body=b"x" * 10_000, drip=0.05)
    destination = service.destination("json", seconds=0.1)
    started = time.monotonic()
    reasons = {service.failure(destination).reason for _ in range(9)}

    assert time.monotonic() - started < 5
    assert reasons == {
        "the service did not answer in time",
        "too many earlier messages to the service are still in flight",
    }
    service.server.close()
    eventually(lambda: not [t for t in threading.enumerate() if t.name == "apprise-chat"])


def test_messages_need_not_wait_for_each_other(service: LocalService) -> None:
    """Apprise's own pause between messages, more than 5 s, is turned off."""
    destination = service.destination("gotify", "/abcdefghijklmno")
    started = time.monotonic()
    for _ in range(3):
        destination.send([SMS])

    assert time.monotonic() - started < 4


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("nonsense", "no service"),
        ("unknown://example.org/x", "no service"),
        ("https://169.254.169.254/latest", "no service"),
        ("discord://1", "no service"),
        ("json://169.254.169.254/latest", "not allowed"),
        ("jsons://elsewhere.example/x", "not allowed"),
        ("json://tls.example/x", "not allowed"),
        ("xml://[::1]/x", "not allowed"),
        ("form://elsewhere.example:8080/x", "not allowed"),
        ("matrixs://u:p@elsewhere.example/%23room", "not allowed"),
        ("mailto://u:p@gmail.com", "the kind email"),
        ("mailtos://u:p@gmail.com", "the kind email"),
        ("syslog://", "log"),
        (f"{DISCORD}?template=/etc/passwd", "template"),
        ("tgram://123456789:abcdefghijklmnopqrstuvwxyz123456789/111/222", "several targets"),
    ],
)
def test_urls_that_are_not_used(url: str, words: str) -> None:
    """URLs of other hosts, files, logs or several targets are refused when they are read."""
    http = HttpClient(allowed_hosts=["tls.example"])
    with closing(http), pytest.raises(ValueError, match=words) as caught:
        Apprise("chat", url=url, http=http)

    assert "example" not in str(caught.value)
    assert "169.254" not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "jsons://tls.example/x",
        DISCORD,
        "https://discord.com/api/webhooks/123456789012345678/" + "t" * 30,
        "tgram://123456789:abcdefghijklmnopqrstuvwxyz123456789/111",
        "pagerduty://" + "i" * 32 + "@" + "a" * 20,
        "slack://T1JJ3T3L2/A1BRTD4JD/TIiajkdnlazkcOXrIdevi7FQ/#general",
    ],
)
def test_urls_that_are_used(url: str) -> None:
    """A public service is always allowed; an allowed host is reached with TLS."""
    with closing(HttpClient(allowed_hosts=["tls.example"])) as http:
        assert Apprise("chat", url=url, http=http).kind == "apprise"


def test_markup_is_escaped_where_it_would_be_rendered() -> None:
    """A service that renders markup in plain text gets it escaped, and notifies nobody."""
    with closing(HttpClient(allowed_hosts=[])) as http:
        text = escape_markup(open_service(DISCORD, http), HOSTILE)

    assert "@everyone" not in text
    assert "@123" not in text
    assert r"\*bold\*" in text
    assert r"\[here\]" in text
    assert r"\|\|q\|\|" in text
    assert r"\\\*" in text
