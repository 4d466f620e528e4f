"""uvicorn's HTTP/1.1 protocol with a deadline and a limit for all input.

uvicorn leaves both to a reverse proxy. No proxy is assumed here, so every connection has

- a deadline for the header section, counted from the start of the connection or from the end of
  the last response (uvicorn's keep-alive timer, which here only a complete header section stops),
  for the rest of a body that the application does not read, and for a client that does not read
  its response;
- a limit for the header section and for all bytes of one request, including chunk framing and
  trailers, so that a hostile request costs no more memory than the largest legitimate one;
- a limit for pipelined requests: one segment holds thousands of small ones;
- errors as problem documents, in pipeline order, and a close that lets the client read them.

``Upgrade`` is ignored, as RFC 9110 (7.8) allows. The parser stops at an upgrade, so the request is
parsed again without that header; otherwise its body would be lost.

This follows uvicorn's ``httptools_impl.py`` closely; uvicorn's version is pinned to a range for
that reason.
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
from receiver.web.http1.request_cycle import CLOSE, CompleteResponse, RequestCycle
from receiver.web.http1.transport import LingeringTransport
from receiver.web.problems import MEDIA_TYPE, REJECTION, document, status_of

MAX_HEADER_BYTES = 16 * 1024
MAX_HEADERS = 100
# Enough for 64 KiB in chunks of one byte, each with its length and line ends.
MAX_REQUEST_BYTES = 512 * 1024
MAX_PIPELINED = 8
DEADLINE_SECONDS = 5
# How long a client may leave a response unread, or go on sending after an error response.
LINGER_SECONDS = 2.0
# The parser also accepts 0.9, which has no headers, and 2.0, which has another framing.
_SUPPORTED_VERSIONS = frozenset({"1.1", "1.0"})
_log = structlog.get_logger("receiver.access")


class HardenedHttpProtocol(HttpToolsProtocol):
    """One connection; the module says what it adds to uvicorn's.

    uvicorn's ``timeout_keep_alive`` is the deadline of a header section.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._chunk_size = 0  # bytes passed to the parser in the current call
        self._received = 0  # bytes since the start of the newest request
        self._aligned = True  # the next request starts at the start of the chunk
        self._in_headers = False  # a header section has started and is incomplete
        self._request_complete = True  # no request has arrived partly
        self._discarding = False  # all further input is dropped
        self._close_after_responses = False
        self._closing = False
        self._ignoring_upgrade = False  # the request will be parsed again, without ``Upgrade``
        self._fast_path: FastPath | None = getattr(
            getattr(self.app, "state", None), "fast_path", None
        )
        # A request for the fast path, if its body is complete by the end of the chunk.
        self._candidate: tuple[RequestCycle, WebhookEndpoint] | None = None
        self._abort_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the connection and the deadline of its first header section."""
        self._raw_transport = transport
        lingering = LingeringTransport(transport, self.close, self._is_closing)
        super().connection_made(cast("asyncio.Transport", lingering))
        self.timeout_keep_alive_task = self.loop.call_later(
            self.timeout_keep_alive, self.timeout_keep_alive_handler
        )

    def connection_lost(self, exc: Exception | None) -> None:
        """Cancel all timers and break the reference cycles of the connection."""
        self._closing = self._discarding = True
        super().connection_lost(exc)
        self._unset_keepalive_if_required()
        self._cancel_abort_timer()
        cast("LingeringTransport", self.transport).detach()
        self.cycle = None  # type: ignore[assignment]
        self.pipeline.clear()

    def data_received(self, data: bytes) -> None:
        """Parse input; reject what violates the framing or a limit."""
        if self._discarding:
            return
        self._chunk_size = len(data)
        self._received += self._chunk_size
        self._aligned = self._request_complete
        self._feed(data)
        self._start_candidate()

    def _feed(self, data: bytes) -> None:
        try:
            self._parse(data)
        except httptools.HttpParserError as error:
            ours, default = error.__context__, "the request is not well-formed HTTP/1.1"
            self._reject(ours if isinstance(ours, CodecatchError) else MalformedRequest(default))
            return
        if self._in_headers and self._received > MAX_HEADER_BYTES:
            self._reject(_headers_too_large())
        elif self._received > MAX_REQUEST_BYTES:
            self._reject(PayloadTooLarge("the request is too large"))

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

    # Callbacks of the parser; it raises its own exception with ours as the context.

    def on_message_begin(self) -> None:
        """Start a request, unless too many are pipelined."""
        if len(self.pipeline) >= MAX_PIPELINED:
            raise MalformedRequest("too many pipelined requests")
        super().on_message_begin()
        # The parser does not tell where in the chunk a request starts; if it is not at the start,
        # counting starts with the next chunk.
        self._received = self._chunk_size if self._aligned else 0
        self._aligned = False
        self._in_headers = True
        self._request_complete = False

    def on_headers_complete(self) -> None:
        """Check a complete header section against the limits, and start its request."""
        # The received bytes are an upper bound of the section, and cheaper than its exact size.
        if len(self.headers) > MAX_HEADERS or (
            self._received + self._chunk_size > MAX_HEADER_BYTES
            and _header_size(self.url, self.headers) > MAX_HEADER_BYTES
        ):
            raise _headers_too_large()
        version, method = self.parser.get_http_version(), self.parser.get_method()
        if version not in _SUPPORTED_VERSIONS:
            raise MalformedRequest("only HTTP/1.1 and HTTP/1.0 are supported")
        self._ignoring_upgrade = self.parser.should_upgrade()
        if self._ignoring_upgrade:
            if method == b"CONNECT":
                raise MalformedRequest("CONNECT is not supported")
            return
        self._start_request(method.decode("ascii"), version)
        self._unset_keepalive_if_required()
        self._in_headers = False
        # Drop trailers: uvicorn would append them to the headers that the application is reading.
        self.headers = deque(maxlen=0)  # type: ignore[assignment]

    def _start_request(self, method: str, version: str) -> None:
        """Start the application on a request, or queue it behind the previous one."""
        url = httptools.parse_url(self.url)
        path = url.path.decode("ascii")
        scope = self.scope
        scope["method"], scope["http_version"] = method, version
        scope["path"] = unquote(path) if "%" in path else path
        scope["raw_path"], scope["query_string"] = url.path, url.query or b""
        previous = cast("RequestCycle | None", self.cycle)
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
        endpoint = (
            self._fast_path.endpoint_for(path) if self._fast_path and method == "POST" else None
        )
        if previous is None or previous.response_complete:
            if endpoint is None:
                self._start_asgi_task(cycle, self.app)
            else:
                self._candidate = cycle, endpoint
        else:
            self.flow.pause_reading()
            self.pipeline.appendleft((cycle, self.app))

    def _start_candidate(self) -> None:
        """Start the candidate: on the fast path if its body is complete, else as an ASGI task."""
        if self._candidate is None:
            return
        (cycle, endpoint), self._candidate = self._candidate, None
        if self._fast_path is None or cycle.more_body:
            self._start_asgi_task(cycle, self.app)
        else:
            self._fast_path.serve(cycle, endpoint)

    def on_body(self, body: bytes) -> None:
        """Buffer a part of a body until the application receives it."""
        if not self._ignoring_upgrade:
            super().on_body(body)

    def on_message_complete(self) -> None:
        """Mark the request as complete."""
        if self._ignoring_upgrade:
            return
        super().on_message_complete()
        self._request_complete = True
        cast("RequestCycle", self.cycle).on_request_complete()

    def on_response_complete(self) -> None:
        """Start the next pipelined request, or the deadline of the next one and of unread input."""
        if self._close_after_responses and not self.pipeline:
            self.close()
        super().on_response_complete()

    def timeout_keep_alive_handler(self) -> None:
        """Close the connection at its deadline, with a 408 for an incomplete header section."""
        if self._in_headers:
            self._reject(HeadersTooSlow("the header section was not complete in time"))
        else:
            self.close()

    def pause_writing(self) -> None:
        """Start the deadline of a client that does not read its responses."""
        super().pause_writing()
        self._start_abort_timer()

    def resume_writing(self) -> None:
        """Stop the deadline of a client that reads again."""
        super().resume_writing()
        if not self._closing:
            self._cancel_abort_timer()

    def _reject(self, error: CodecatchError) -> None:
        """Stop reading; respond with ``error`` if no response to an earlier request is due."""
        self._discarding = True
        newest = cast("RequestCycle | None", self.cycle)
        if newest is None or newest.response_complete:
            if self._in_headers or self._request_complete:
                _log.warning("request.rejected", status=status_of(error), reason=str(error))
                self._send_problem(error)
            self.close()
        elif self._request_complete or self._in_headers:
            # Responses to valid earlier requests are due; the client must read those first.
            newest.keep_alive = False
        elif self.pipeline:
            self.pipeline.popleft()
            self._close_after_responses = True
        else:
            self._abort_body(newest, error)

    def _abort_body(self, cycle: RequestCycle, error: CodecatchError) -> None:
        # The application is reading this body: pass it the reason, which it logs.
        cycle.scope["state"][REJECTION] = error
        cycle.disconnected = True
        cycle.message_event.set()
        if not cycle.response_started:
            self._send_problem(error)
        self.close()

    def _send_problem(self, error: CodecatchError) -> None:
        status = status_of(error)
        body = json.dumps(document(status, str(error))).encode()
        length = (b"content-length", b"%d" % len(body))
        content_type = (b"content-type", MEDIA_TYPE.encode())
        response = CompleteResponse(status, (content_type, length, CLOSE), body)
        self._raw_transport.write(response.encode(*self.server_state.default_headers))

    def _is_closing(self) -> bool:
        """Return whether the connection is closed or lingers before its close."""
        return self._closing or self._raw_transport.is_closing()

    def close(self) -> None:
        """Close the connection after its output is sent, and within two seconds in any case.

        Closing a socket with unread input resets the connection, and the client loses the
        response. So while the client is still sending, only the sending side is shut down, and
        input is read and dropped until the client closes.
        """
        if self._closing:
            return
        self._closing = True
        if (self._discarding or not self._request_complete) and self._raw_transport.can_write_eof():
            self._discarding = True
            self.flow.resume_reading()
            self._raw_transport.write_eof()
        else:
            self._raw_transport.close()
        self._start_abort_timer()

    def _start_abort_timer(self) -> None:
        if self._abort_timer is None:
            self._abort_timer = self.loop.call_later(LINGER_SECONDS, self._raw_transport.abort)

    def _cancel_abort_timer(self) -> None:
        if self._abort_timer is not None:
            self._abort_timer.cancel()
            self._abort_timer = None


def _header_size(url: bytes, headers: list[tuple[bytes, bytes]]) -> int:
    return len(url) + sum(len(name) + len(value) + len(": \r\n") for name, value in headers)


def _headers_too_large() -> HeadersTooLarge:
    return HeadersTooLarge(
        f"the header section is over {MAX_HEADER_BYTES} bytes or {MAX_HEADERS} headers"
    )
