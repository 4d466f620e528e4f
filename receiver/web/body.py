"""Reads request bodies: limited in size and time, and never decoded."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TypeVar

from starlette.types import Receive, Scope

from receiver.errors import BodyTooSlow, CodecatchError, PayloadTooLarge, UnsupportedEncoding
from receiver.web.http1.request_cycle import BODY
from receiver.web.problems import REJECTION

_Body = TypeVar("_Body", bytes, bytearray)
MAX_BODY_BYTES = 64 * 1024
DEADLINE_SECONDS = 5.0
# The codings that leave the bytes as they were signed.
_ACCEPTED_CODINGS = {
    b"content-encoding": {b"", b"identity"},
    b"transfer-encoding": {b"chunked"},
}


async def read_body(scope: Scope, receive: Receive) -> None:
    """Wait for the complete raw body and store it in ``scope["state"]``, byte for byte.

    Raises:
        UnsupportedEncoding: it has a content encoding, or a transfer encoding besides chunked.
        PayloadTooLarge: its announced or its actual length is over 64 KiB.
        BodyTooSlow: it was incomplete after 5 seconds.
        CodecatchError: the protocol rejected the rest of it, and has already responded.
    """
    if BODY in scope["state"]:
        return
    _check_headers(scope["headers"])
    try:
        async with asyncio.timeout(DEADLINE_SECONDS):
            scope["state"][BODY] = await _receive_chunks(scope, receive)
    except TimeoutError:
        raise BodyTooSlow(f"the body was incomplete after {DEADLINE_SECONDS:.0f} s") from None


def complete_body(scope: Scope) -> bytes:
    """Return the raw body of a request that has arrived completely.

    Raises:
        UnsupportedEncoding, PayloadTooLarge: as in :func:`read_body`.
    """
    _check_headers(scope["headers"])
    body: bytes = scope["state"][BODY]
    return _check_size(body)


def _check_headers(headers: Sequence[tuple[bytes, bytes]]) -> None:
    for name, value in headers:
        if name in _ACCEPTED_CODINGS and value.strip().lower() not in _ACCEPTED_CODINGS[name]:
            raise UnsupportedEncoding(
                "content encodings are not supported: send the body as it was signed"
            )
        if name == b"content-length" and value.isdigit() and int(value[:20]) > MAX_BODY_BYTES:
            raise PayloadTooLarge(f"the body is over {MAX_BODY_BYTES} bytes")


async def _receive_chunks(scope: Scope, receive: Receive) -> bytes:
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            rejection: CodecatchError | None = scope["state"].get(REJECTION)
            raise rejection or BodyTooSlow("the client disconnected before the body was complete")
        body += message.get("body", b"")
        if not message.get("more_body", False):
            return bytes(_check_size(body))
        _check_size(body)


def _check_size(body: _Body) -> _Body:
    if len(body) > MAX_BODY_BYTES:
        raise PayloadTooLarge(f"the body is over {MAX_BODY_BYTES} bytes")
    return body
