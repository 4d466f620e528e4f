"""Raw HTTP requests that no client would send, and a parser for the responses."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.receiver.web.conftest import Answer
from tests.support import webhooks
from tests.support.webhooks import Webhook

_SAMPLES = Path(__file__).parents[2] / "samples" / "hostile"
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


def request_of(webhook: Webhook, *headers: str, ends: str = "") -> bytes:
    """Return a webhook as a raw request; ``ends`` is the value of a ``Connection`` header."""
    lines = [
        f"POST {webhook.path} HTTP/1.1",
        "Host: x",
        *(f"{name}: {value}" for name, value in webhook.headers.items()),
        *([f"Connection: {ends}"] if ends else []),
        *headers,
        f"Content-Length: {len(webhook.body)}",
    ]
    return "\r\n".join([*lines, "", ""]).encode() + webhook.body


def answers_in(received: bytes) -> list[Answer]:
    """Parse every response received on one connection; interim responses are skipped."""
    answers = []
    while received:
        if received.startswith(_CONTINUE):
            received = received.removeprefix(_CONTINUE)
            continue
        head, _, rest = received.partition(b"\r\n\r\n")
        status, *lines = head.decode().split("\r\n")
        headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
        length = int(headers["content-length"])
        answers.append(Answer(int(status.split()[1]), headers, rest[:length]))
        received = rest[length:]
    return answers


def read_answer(connection: socket.socket) -> Answer:
    """Read the next response on a connection that stays open."""
    received = b""
    while True:
        received += connection.recv(65_536)
        head, found, rest = received.partition(b"\r\n\r\n")
        length = next(
            (
                int(line[16:])
                for line in head.lower().split(b"\r\n")
                if line[:15] == b"content-length:"
            ),
            0,
        )
        if found and len(rest) >= length:
            (answer,) = answers_in(received)
            return answer


def drip(connection: socket.socket, drops: Iterator[bytes]) -> tuple[bytes, float]:
    """Send a drop every 50 ms until the receiver closes; return its output and the seconds."""
    began = time.monotonic()
    connection.settimeout(0.05)
    received = b""
    for drop in drops:
        try:
            connection.sendall(drop)
            chunk = connection.recv(65_536)
        except TimeoutError:
            continue
        except ConnectionError:
            break
        if not chunk:
            break
        received += chunk
    return received, time.monotonic() - began


@dataclass(frozen=True)
class Hostile:
    """A sample request; its file name starts with the expected status."""

    path: Path

    @property
    def status(self) -> int:
        """The expected status."""
        return int(self.path.name[:3])

    def request(self, sender: Webhook) -> bytes:
        """Return the sample as a raw request with the credentials and body of ``sender``."""
        auth = "".join(f"{name}: {value}\r\n" for name, value in sender.headers.items())
        blanks = {
            b"@PATH@": sender.path.encode(),
            b"@BAREPATH@": sender.path.removesuffix(f"/{webhooks.TOKEN}").encode(),
            b"@AUTH@\r\n": auth.encode(),
            b"@LENGTH@": str(len(sender.body)).encode(),
            b"@HEXLENGTH@": f"{len(sender.body):x}".encode(),
            b"@BODY@": sender.body,
        }
        request = self.path.read_bytes()
        for blank, value in blanks.items():
            request = request.replace(blank, value)
        return request


def hostile(kind: str, provider: str = "") -> Iterator[Hostile]:
    """Yield the samples of one kind (``bodies`` or ``requests``) that apply to ``provider``."""
    for path in sorted((_SAMPLES / kind).iterdir()):
        only = path.name.split(".")[1:-1]
        if not only or only == [provider]:
            yield Hostile(path)
