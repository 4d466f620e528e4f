"""The door: uvicorn's HTTP/1.1 protocol, with a deadline and a limit for everything that comes in.

uvicorn leaves both to a proxy in front. Here no proxy is assumed, so every connection has

- a deadline for the header section, counted from its start or from the end of the last answer
  (uvicorn's keep-alive timer, which here only a whole header section stops), for the part of a
  body that nobody waits for, and for a sender that does not take its answer;
- a limit for the header section and for all bytes of one request, whatever the framing makes of
  them, so that a hostile request costs no more memory than the largest honest one;
- a limit for the requests that are sent ahead of their answers: one segment holds thousands of
  small ones;
- refusals as problem documents, in their turn, and a close that lets the sender read them.

``Upgrade`` is declined as RFC 9110 (7.8) allows, by ignoring it. The parser stops reading there,
so the request is read again without it: its body would be lost otherwise.

This follows uvicorn's own ``httptools_impl.py`` closely; its version is bounded for that.
"""

from __future__ import annotations

import asyncio
import json
from collections import deque
from typing import Any, cast
from urllib.parse import unquote

import httptools
import structlog
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from receiver.errors import (
    CodecatchError,
    HeadersTooLarge,
    HeadersTooSlow,
    MalformedRequest,
    PayloadTooLarge,
)
from receiver.web.endpoints import WebhookEndpoint
from receiver.web.http1.fast_path import FastPath
from receiver.web.http1.request_cycle import CLOSE, Answer, RequestCycle
from receiver.web.http1.transport import LingeringTransport
from receiver.web.problems import MEDIA_TYPE, REFUSAL, document, status_of

LARGEST_HEADER_SECTION = 16 * 1024
MOST_HEADERS = 100
# 64 KiB in chunks of a single byte, each with its length and line ends, are within.
LARGEST_REQUEST = 512 * 1024
MOST_WAITING = 8
DEADLINE_SECONDS = 5
# How long an answer may wait to be taken, and a sender go on writing after a refusal.
LINGER_SECONDS = 2.0
# The parser reads two more: 0.9 has no headers, and 2.0 no such framing.
_VERSIONS = frozenset({"1.1", "1.0"})
_log = structlog.get_logger("receiver.access")


class HardenedHttpProtocol(HttpToolsProtocol):
    """One connection; see the module for what it adds to uvicorn's.

    ``timeout_keep_alive`` of uvicorn's configuration is the deadline of a header section.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._chunk = 0  # bytes that are being parsed
        self._received = 0  # bytes since the newest request began
        self._aligned = True  # the next request begins where the chunk does
        self._in_headers = False  # a header section has begun and is not whole
        self._whole = True  # no request is half here
        self._deaf = False  # whatever else comes is dropped
        self._ending = False  # the connection ends with the answers that are due
        self._closing = False
        self._upgrades = False  # the request is to be read again, without its wish
        self._express: FastPath | None = getattr(getattr(self.app, "state", None), "express", None)
        self._held: tuple[RequestCycle, WebhookEndpoint] | None = None  # may go the short way
        self._last_call: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin, with the deadline of the first header section running."""
        self._socket = transport
        polite = LingeringTransport(transport, self.close, self._is_closing)
        super().connection_made(cast("asyncio.Transport", polite))
        self.timeout_keep_alive_task = self.loop.call_later(
            self.timeout_keep_alive, self.timeout_keep_alive_handler
        )

    def connection_lost(self, exc: Exception | None) -> None:
        """End; no timer outlives the connection, and it leaves the collector no circle."""
        self._closing = self._deaf = True
        super().connection_lost(exc)
        self._unset_keepalive_if_required()
        self._cancel_last_call()
        cast("LingeringTransport", self.transport).let_go()
        self.cycle = None  # type: ignore[assignment]
        self.pipeline.clear()

    def data_received(self, data: bytes) -> None:
        """Parse what came, and refuse it where it breaks the framing or a limit."""
        if self._deaf:
            return
        self._chunk = len(data)
        self._received += self._chunk
        self._aligned = self._whole
        self._take_in(data)
        self._let_go()

    def _take_in(self, data: bytes) -> None:
        try:
            self._parse(data)
        except httptools.HttpParserError as error:
            ours, theirs = error.__context__, "the request is not well-formed HTTP/1.1"
            self._refuse(ours if isinstance(ours, CodecatchError) else MalformedRequest(theirs))
            return
        if self._in_headers and self._received > LARGEST_HEADER_SECTION:
            self._refuse(_headers_too_large())
        elif self._received > LARGEST_REQUEST:
            self._refuse(PayloadTooLarge("the request is too large"))

    def _parse(self, data: bytes) -> None:
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            rest = data[upgrade.args[0] :]
            version = self.parser.get_http_version().encode()
            head = [self.parser.get_method(), b" ", self.url, b" HTTP/", version, b"\r\n"]
            for name, value in self.headers:
                if name != b"upgrade":
                    head += [name, b": ", value, b"\r\n"]
            self.parser = httptools.HttpRequestParser(self)
            self._parse(b"".join([*head, b"\r\n", rest]))

    # What the parser calls; an exception of ours comes out of it as the context of its own.

    def on_message_begin(self) -> None:
        """Begin a request, unless too many wait already."""
        if len(self.pipeline) >= MOST_WAITING:
            raise MalformedRequest("too many requests came before the first was answered")
        super().on_message_begin()
        # Where it begins within a chunk cannot be known: it is counted from the next one on.
        self._received = self._chunk if self._aligned else 0
        self._aligned = False
        self._in_headers = True
        self._whole = False

    def on_headers_complete(self) -> None:
        """Start the application on a request whose header section is whole and within limits."""
        # The bytes that came bound the section from above, and are counted already.
        if len(self.headers) > MOST_HEADERS or (
            self._received + self._chunk > LARGEST_HEADER_SECTION
            and _size(self.url, self.headers) > LARGEST_HEADER_SECTION
        ):
            raise _headers_too_large()
        version, method = self.parser.get_http_version(), self.parser.get_method()
        if version not in _VERSIONS:
            raise MalformedRequest("only HTTP/1.1 and 1.0 are spoken here")
        self._upgrades = self.parser.should_upgrade()
        if self._upgrades:
            if method == b"CONNECT":
                raise MalformedRequest("this is no proxy")
            return
        self._begin(method.decode("ascii"), version)
        self._unset_keepalive_if_required()
        self._in_headers = False
        # Trailers would join the headers that the application may be reading: they are dropped.
        self.headers = deque(maxlen=0)  # type: ignore[assignment]

    def _begin(self, method: str, version: str) -> None:
        """Start the application on a request, or leave that to the end of the one before."""
        url = httptools.parse_url(self.url)
        path = url.path.decode("ascii")
        scope = self.scope
        scope["method"], scope["http_version"] = method, version
        scope["path"] = unquote(path) if "%" in path else path
        scope["raw_path"], scope["query_string"] = url.path, url.query or b""
        before = cast("RequestCycle | None", self.cycle)
        cycle = self.cycle = RequestCycle(
            scope=scope,
            transport=self.transport,
            flow=self.flow,
            logger=self.logger,
            access_logger=self.access_logger,
            access_log=self.access_log,
            default_headers=self.server_state.default_headers,
            message_event=asyncio.Event(),
            expect_100_continue=self.expect_100_continue,
            keep_alive=version != "1.0" and self.parser.should_keep_alive(),
            on_response=self.on_response_complete,
        )
        endpoint = self._express.leads_to(path) if self._express and method == "POST" else None
        if before is None or before.response_complete:
            if endpoint is None:
                self._start_asgi_task(cycle, self.app)
            else:
                self._held = cycle, endpoint
        else:
            self.flow.pause_reading()
            self.pipeline.appendleft((cycle, self.app))

    def _let_go(self) -> None:
        """Start what could have been whole by now: the short way if it is."""
        if self._held is None:
            return
        (cycle, endpoint), self._held = self._held, None
        if self._express is None or cycle.more_body:
            self._start_asgi_task(cycle, self.app)
        else:
            self._express.serve(cycle, endpoint)

    def on_body(self, body: bytes) -> None:
        """Keep a part of a request's body until the application asks for it."""
        if not self._upgrades:
            super().on_body(body)

    def on_message_complete(self) -> None:
        """Note that a request is whole."""
        if self._upgrades:
            return
        super().on_message_complete()
        self._whole = True
        cast("RequestCycle", self.cycle).is_whole()

    def on_response_complete(self) -> None:
        """Go on to what waits; else the next request has a deadline, and the rest of this one."""
        if self._ending and not self.pipeline:
            self.close()
        super().on_response_complete()

    def timeout_keep_alive_handler(self) -> None:
        """Close a connection whose time is over; who sent half a header section is told."""
        if self._in_headers:
            self._refuse(HeadersTooSlow("the header section was not whole in time"))
        else:
            self.close()

    def pause_writing(self) -> None:
        """Give a sender that does not read its answers a moment to do so."""
        super().pause_writing()
        self._call_last()

    def resume_writing(self) -> None:
        """Go on with a sender that reads again."""
        super().resume_writing()
        if not self._closing:
            self._cancel_last_call()

    def _refuse(self, error: CodecatchError) -> None:
        """Read no more, and say why where the refused request's turn to be answered has come."""
        self._deaf = True
        newest = cast("RequestCycle | None", self.cycle)
        if newest is None or newest.response_complete:
            if self._in_headers or self._whole:
                _log.warning("request.refused", status=status_of(error), reason=str(error))
                self._answer(error)
            self.close()
        elif self._whole or self._in_headers:
            # Good requests came before, and what the sender reads next must be their answers.
            newest.keep_alive = False
        elif self.pipeline:
            self.pipeline.popleft()
            self._ending = True
        else:
            self._break_off(newest, error)

    def _break_off(self, cycle: RequestCycle, error: CodecatchError) -> None:
        # The application is reading this body. It learns why there is no more, and logs that.
        cycle.scope["state"][REFUSAL] = error
        cycle.disconnected = True
        cycle.message_event.set()
        if not cycle.response_started:
            self._answer(error)
        self.close()

    def _answer(self, error: CodecatchError) -> None:
        status = status_of(error)
        body = json.dumps(document(status, str(error))).encode()
        length = (b"content-length", b"%d" % len(body))
        answer = Answer(status, ((b"content-type", MEDIA_TYPE.encode()), length, CLOSE), body)
        self._socket.write(answer.written(*self.server_state.default_headers))

    def _is_closing(self) -> bool:
        """Whether the connection is closed, or will be once its sender is done."""
        return self._closing or self._socket.is_closing()

    def close(self) -> None:
        """Close once what was written is out, and within two seconds in any case.

        A socket that is closed with bytes unread resets the connection, and the sender loses its
        answer: so one that is still writing is heard to its end, and what it says is dropped.
        """
        if self._closing:
            return
        self._closing = True
        if (self._deaf or not self._whole) and self._socket.can_write_eof():
            self._deaf = True
            self.flow.resume_reading()
            self._socket.write_eof()
        else:
            self._socket.close()
        self._call_last()

    def _call_last(self) -> None:
        if self._last_call is None:
            self._last_call = self.loop.call_later(LINGER_SECONDS, self._socket.abort)

    def _cancel_last_call(self) -> None:
        if self._last_call is not None:
            self._last_call.cancel()
            self._last_call = None


def _size(url: bytes, headers: list[tuple[bytes, bytes]]) -> int:
    return len(url) + sum(len(name) + len(value) + len(": \r\n") for name, value in headers)


def _headers_too_large() -> HeadersTooLarge:
    return HeadersTooLarge(
        f"the header section is over {LARGEST_HEADER_SECTION} bytes or {MOST_HEADERS} headers"
    )
