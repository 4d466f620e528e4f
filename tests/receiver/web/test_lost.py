"""What is left of a connection that has ended."""

from __future__ import annotations

import gc
import socket
import struct
import threading
from collections.abc import Iterator
from weakref import WeakSet

import pytest

from receiver.inbox.writer import InboxWriter
from receiver.web.http1.protocol import HardenedHttpProtocol
from tests.receiver.web.conftest import Receiver
from tests.receiver.web.raw import request_of
from tests.support import webhooks
from tests.support.waiting import eventually

WHOLE = request_of(webhooks.virtualsms_v1())
HEALTH = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
# A close that is a reset, which the next answer runs into.
RESET = struct.pack("ii", 1, 0)


@pytest.fixture
def doors(monkeypatch: pytest.MonkeyPatch) -> Iterator[WeakSet[HardenedHttpProtocol]]:
    """The connections that take up memory, while nobody collects what is garbage."""
    there: WeakSet[HardenedHttpProtocol] = WeakSet()
    really = HardenedHttpProtocol.connection_made

    def made(door: HardenedHttpProtocol, *given: object) -> None:
        there.add(door)
        really(door, *given)  # type: ignore[arg-type]

    monkeypatch.setattr(HardenedHttpProtocol, "connection_made", made)
    gc.disable()
    yield there
    gc.enable()


@pytest.mark.parametrize(
    ("sent", "answered"),
    [
        (b"", False),
        (WHOLE, True),
        (WHOLE + WHOLE, True),
        (HEALTH, True),
        (WHOLE[:-1], False),
        (b"GET / HTTP/1.1\nHost: x\n\n", True),
    ],
    ids=["nothing", "webhook", "two", "question", "half", "no HTTP"],
)
def test_nothing_waits_for_the_collector(
    receiver: Receiver, doors: WeakSet[HardenedHttpProtocol], sent: bytes, answered: bool
) -> None:
    """Whatever was sent, and whether the sender waited: its memory is free once it has gone."""
    with receiver.connect() as connection:
        connection.sendall(sent)
        if answered:
            assert connection.recv(65_536)
        else:
            eventually(lambda: doors)
    eventually(lambda: not doors)


@pytest.mark.parametrize("more", [b"", HEALTH * 4], ids=["one", "many"])
def test_nor_does_what_is_never_answered(
    receiver: Receiver,
    doors: WeakSet[HardenedHttpProtocol],
    monkeypatch: pytest.MonkeyPatch,
    more: bytes,
) -> None:
    """Who has gone before the event was stored leaves nothing, nor do the requests after it."""
    writing, gone, really = threading.Event(), threading.Event(), InboxWriter.write

    def write(*given: object) -> object:
        writing.set()
        assert gone.wait(10)
        return really(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(InboxWriter, "write", write)
    with receiver.connect() as connection:
        connection.sendall(WHOLE + more)
        assert writing.wait(10)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    if not more:  # else it reads on, and notices, only once it has answered
        eventually(lambda: not receiver._server.server_state.connections)
    gone.set()
    eventually(lambda: not doors)
