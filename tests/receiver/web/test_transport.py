"""What goes to the system, in how many pieces."""

from __future__ import annotations

import asyncio
from typing import cast

import pytest

from receiver.web.transport import PoliteTransport

HEAD = b"HTTP/1.1 202 Accepted\r\n\r\n"


class Wire:
    """A transport that remembers what it was given."""

    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.pause_reading = self.resume_reading = self.get_extra_info = lambda: None

    def write(self, data: bytes) -> None:
        """Remember it."""
        self.written.append(data)


@pytest.fixture
def wire() -> Wire:
    """A connection."""
    return Wire()


@pytest.fixture
def polite(wire: Wire) -> PoliteTransport:
    """What uvicorn is given of it."""
    return PoliteTransport(cast("asyncio.Transport", wire), lambda: None, lambda: False)


def test_head_and_body_go_together(wire: Wire, polite: PoliteTransport) -> None:
    """One answer is one piece, whatever its body looks like, and so is the next."""
    for body in (b"{}", b"HTTP/1.1 "):
        polite.write(HEAD)
        polite.write(body)
    polite.flush()
    assert wire.written == [HEAD + b"{}", HEAD + b"HTTP/1.1 "]


def test_a_head_alone_goes_when_the_answer_ends(wire: Wire, polite: PoliteTransport) -> None:
    """An answer without a body is not kept for ever."""
    polite.write(HEAD)
    assert wire.written == []
    polite.flush()
    polite.flush()
    assert wire.written == [HEAD]


def test_who_waits_to_go_on_is_told_at_once(wire: Wire, polite: PoliteTransport) -> None:
    """The sender's body only comes after that."""
    polite.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    assert len(wire.written) == 1
