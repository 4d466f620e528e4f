"""Reading a request's body: bounded in size and in time, and never decoded."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TypeVar

from starlette.types import Receive, Scope

from receiver.errors import BodyTooSlow, CodecatchError, PayloadTooLarge, UnsupportedEncoding
from receiver.web.http1.request_cycle import BODY
from receiver.web.problems import REFUSAL

_Body = TypeVar("_Body", bytes, bytearray)
LARGEST_BODY = 64 * 1024
DEADLINE_SECONDS = 5.0
# The codings that leave a body as it was signed.
_CODINGS = {b"content-encoding": {b"", b"identity"}, b"transfer-encoding": {b"chunked"}}


async def read_body(scope: Scope, receive: Receive) -> None:
    """Wait for the raw body, byte for byte what was signed, and put it where it is kept if whole.

    Raises:
        UnsupportedEncoding: it has a content encoding, or a transfer encoding besides chunked.
        PayloadTooLarge: it is over 64 KiB, by its announced or by its real length.
        BodyTooSlow: it was not whole within 5 seconds.
        CodecatchError: the protocol refused the rest of it, and has answered so.
    """
    if BODY in scope["state"]:
        return
    _check_head(scope["headers"])
    try:
        async with asyncio.timeout(DEADLINE_SECONDS):
            scope["state"][BODY] = await _chunks(scope, receive)
    except TimeoutError:
        raise BodyTooSlow(f"the body was not whole within {DEADLINE_SECONDS:.0f} s") from None


def whole_body(scope: Scope) -> bytes:
    """The raw body of a request that is all there.

    Raises:
        UnsupportedEncoding, PayloadTooLarge: as of :func:`read_body`.
    """
    _check_head(scope["headers"])
    body: bytes = scope["state"][BODY]
    return _bounded(body)


def _check_head(headers: Sequence[tuple[bytes, bytes]]) -> None:
    for name, value in headers:
        if name in _CODINGS and value.strip().lower() not in _CODINGS[name]:
            raise UnsupportedEncoding(
                "a content encoding is not accepted: send the body as it was signed"
            )
        if name == b"content-length" and value.isdigit() and int(value[:20]) > LARGEST_BODY:
            raise PayloadTooLarge(f"the body is over {LARGEST_BODY} bytes")


async def _chunks(scope: Scope, receive: Receive) -> bytes:
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            refusal: CodecatchError | None = scope["state"].get(REFUSAL)
            raise refusal or BodyTooSlow("the sender hung up before the body was whole")
        body += message.get("body", b"")
        if not message.get("more_body", False):
            return bytes(_bounded(body))
        _bounded(body)


def _bounded(body: _Body) -> _Body:
    if len(body) > LARGEST_BODY:
        raise PayloadTooLarge(f"the body is over {LARGEST_BODY} bytes")
    return body
