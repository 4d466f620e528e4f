"""Closed connections free their memory without the garbage collector."""

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
# Makes close() send a reset, so that the next response fails.
RESET = struct.pack("ii", 1, 0)


@pytest.fixture
def protocols(monkeypatch: pytest.MonkeyPatch) -> Iterator[WeakSet[HardenedHttpProtocol]]:
    """The connections still in memory, with the garbage collector disabled."""
    alive: WeakSet[HardenedHttpProtocol] = WeakSet()
    original = HardenedHttpProtocol.connection_made

    def made(protocol: HardenedHttpProtocol, *given: object) -> None:
        alive.add(protocol)
        original(protocol, *given)  # type: ignore[arg-type]

    monkeypatch.setattr(HardenedHttpProtocol, "connection_made", made)
    gc.disable()
    yield alive
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
def test_a_closed_connection_is_freed(
    receiver: Receiver, protocols: WeakSet[HardenedHttpProtocol], sent: bytes, answered: bool
) -> None:
    """It is freed when the client disconnects, whatever it sent."""
    with receiver.connect() as connection:
        connection.sendall(sent)
        if answered:
            assert connection.recv(65_536)
        else:
            eventually(lambda: protocols)
    eventually(lambda: not protocols)


@pytest.mark.parametrize("more", [b"", HEALTH * 4], ids=["one", "many"])
def test_a_connection_without_a_response_is_freed(
    receiver: Receiver,
    protocols: WeakSet[HardenedHttpProtocol],
    monkeypatch: pytest.MonkeyPatch,
    more: bytes,
) -> None:
    """It is freed if the client disconnects before the commit, with all pipelined requests."""
    writing, disconnected, original = threading.Event(), threading.Event(), InboxWriter.write

    def write(*given: object) -> object:
        writing.set()
        assert disconnected.wait(10)
        return original(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(InboxWriter, "write", write)
    with receiver.connect() as connection:
        connection.sendall(WHOLE + more)
        assert writing.wait(10)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    if not more:  # with pipelined requests, reading is paused until the response
        eventually(lambda: not receiver._server.server_state.connections)
    disconnected.set()
    eventually(lambda: not protocols)
