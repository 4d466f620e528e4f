"""Reading a request's body: bounded in size and in time, and never decoded."""

from __future__ import annotations

import asyncio

from starlette.requests import ClientDisconnect, Request

from receiver.errors import BodyTooSlow, CodecatchError, PayloadTooLarge, UnsupportedEncoding
from receiver.web.problems import REFUSAL

LARGEST_BODY = 64 * 1024
DEADLINE_SECONDS = 5.0


async def read_body(request: Request) -> bytes:
    """The raw body, byte for byte what was signed.

    Raises:
        UnsupportedEncoding: it has a content encoding, or a transfer encoding besides chunked.
        PayloadTooLarge: it is over 64 KiB, by its announced or by its real length.
        BodyTooSlow: it was not whole within 5 seconds.
        CodecatchError: the protocol refused the rest of it, and has answered so.
    """
    encodings = {name.strip().lower() for name in request.headers.getlist("content-encoding")}
    transfer = request.headers.get("transfer-encoding", "chunked").strip().lower()
    if encodings - {"", "identity"} or transfer != "chunked":
        raise UnsupportedEncoding(
            "a content encoding is not accepted: send the body as it was signed"
        )
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced[:20]) > LARGEST_BODY:
        raise PayloadTooLarge(f"the body is over {LARGEST_BODY} bytes")
    body = bytearray()
    try:
        async with asyncio.timeout(DEADLINE_SECONDS):
            async for chunk in request.stream():
                body += chunk
                if len(body) > LARGEST_BODY:
                    raise PayloadTooLarge(f"the body is over {LARGEST_BODY} bytes")
    except TimeoutError:
        raise BodyTooSlow(f"the body was not whole within {DEADLINE_SECONDS:.0f} s") from None
    except ClientDisconnect:
        refusal: CodecatchError | None = request.scope["state"].get(REFUSAL)
        raise refusal or BodyTooSlow("the sender hung up before the body was whole") from None
    return bytes(body)
