"""A real HTTP/1.1 server that records requests and gives the responses that a test sets."""

import contextlib
import json as json_module
import re
import socket
import socketserver
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar, Self
from urllib.parse import parse_qsl, urlsplit


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """A received request; header names are in lower case."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes
    clock: float
    """time.monotonic() at its arrival, to measure pauses between requests."""
    connection: int
    """The client's port: equal for requests on one keep-alive connection."""

    def json(self) -> Any:
        """Return the body parsed as JSON."""
        return json_module.loads(self.body)


@dataclass(frozen=True, kw_only=True, slots=True)
class Reply:
    """A response; `json` is sent if it is given, else `body`."""

    status: int = 200
    json: Any = None
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    hang: float = 0.0
    """Seconds to wait before the response."""
    drip: float = 0.0
    """Seconds between two bytes of the body."""
    cut: bool = False
    """Close the connection after the request, without a response."""
    truncate: bool = False
    """Close the connection after half of the body."""

    def content(self) -> tuple[bytes, str]:
        """Return the body and its content type."""
        if self.json is None:
            return self.body, "text/plain; charset=utf-8"
        kind = "application/problem+json" if self.status >= 400 else "application/json"
        return json_module.dumps(self.json).encode(), kind


NOT_FOUND = Reply(status=404, json={"title": "No rule matches this request", "status": 404})


@dataclass(slots=True)
class _Rule:
    method: str
    path: re.Pattern[str]
    answer: Callable[[Request], Reply]
    left: int | None

    def matches(self, request: Request) -> bool:
        return self.method in ("*", request.method) and bool(self.path.fullmatch(request.path))


class HttpServer:
    """A threaded server on 127.0.0.1 with rules; the newest matching rule gives the response.

    In a rule's path `*` matches one segment or a part of it, `**` anything; the method `*` matches
    any. Replies of `once` are used first, oldest first. Without a matching rule the response is
    404. If a handler raises, the client gets 500, and `close` raises the error.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._rules: list[_Rule] = []
        self._requests: list[Request] = []
        self._failures: list[Exception] = []
        self._closing = threading.Event()
        self._server = _Server(self)
        self._thread = threading.Thread(target=self._server.serve, name="http-server")
        self._thread.start()

    @property
    def port(self) -> int:
        """The port of the server."""
        return self._server.server_port

    @property
    def url(self) -> str:
        """Its base URL, without a trailing slash."""
        return f"http://127.0.0.1:{self.port}"

    def on(
        self,
        method: str,
        path: str,
        *,
        handler: Callable[[Request], Reply] | None = None,
        **reply: Any,
    ) -> None:
        """Set the response to matching requests, as a `handler` or with the fields of `Reply`."""
        fixed = Reply(**reply)
        self._add(method, path, handler or (lambda _: fixed), times=None)

    def once(
        self, method: str, path: str, reply: Reply | Callable[[Request], Reply], *, times: int = 1
    ) -> None:
        """Set the response to the next `times` matching requests."""
        self._add(method, path, reply if callable(reply) else lambda _: reply, times=times)

    def requests(self, method: str = "*", path: str = "**") -> list[Request]:
        """Return the matching requests so far, oldest first."""
        wanted = _Rule(method, _pattern(path), lambda _: NOT_FOUND, None)
        with self._lock:
            return [request for request in self._requests if wanted.matches(request)]

    def forget(self) -> None:
        """Delete the recorded requests; the rules stay."""
        with self._lock:
            self._requests.clear()

    def close(self) -> None:
        """End pending responses, close all connections, and raise the error of a failed handler."""
        if not self._closing.is_set():
            self._closing.set()
            with socket.socket() as last:  # a connection that ends the loop at once
                last.connect(("127.0.0.1", self.port))
            self._thread.join()
            self._server.close_connections()
            self._server.server_close()
        if self._failures:
            raise self._failures.pop()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _kind: object, error: object, _trace: object) -> None:
        if error is not None:
            self._failures.clear()  # the test's own error is more useful
        self.close()

    def answer(self, request: Request) -> Reply:
        """Record a request and return its response; called by the connections' threads."""
        with self._lock:
            self._requests.append(request)
            rule = self._choose(request)
            if rule is not None and rule.left is not None:
                rule.left -= 1
        if rule is None:
            return NOT_FOUND
        try:
            return rule.answer(request)
        except Exception as error:  # noqa: BLE001 -- raised again by close()
            self._failures.append(error)
            return Reply(status=500, json={"title": repr(error), "status": 500})

    def pause(self, seconds: float) -> bool:
        """Wait, and return whether the server is still open; called by the same threads."""
        return not self._closing.wait(seconds)

    def fail(self, error: Exception) -> None:
        """Save an error of a connection's thread for `close`."""
        self._failures.append(error)

    def _add(
        self, method: str, path: str, answer: Callable[[Request], Reply], *, times: int | None
    ) -> None:
        with self._lock:
            self._rules.append(_Rule(method, _pattern(path), answer, times))

    def _choose(self, request: Request) -> _Rule | None:
        matching = [rule for rule in self._rules if rule.matches(request)]
        for rule in matching:
            if rule.left:
                return rule
        return next((rule for rule in reversed(matching) if rule.left is None), None)


def _pattern(path: str) -> re.Pattern[str]:
    parts = re.split(r"(\*\*|\*)", path)
    wild = {"*": "[^/]*", "**": ".*"}
    return re.compile("".join(wild.get(part) or re.escape(part) for part in parts), re.DOTALL)


class _Server(ThreadingHTTPServer):
    daemon_threads = False  # so that server_close() joins them
    request_queue_size = 512

    def __init__(self, owner: HttpServer) -> None:
        self.owner = owner
        self._connections: set[socket.socket] = set()
        self._connections_lock = threading.Lock()
        super().__init__(("127.0.0.1", 0), _Connection)

    def server_bind(self) -> None:
        """Bind without a DNS lookup of the host's name, which can take seconds."""
        socketserver.TCPServer.server_bind(self)
        self.server_name = "127.0.0.1"
        self.server_port = self.server_address[1]

    def serve(self) -> None:
        """Accept connections until the owner closes; nothing is polled."""
        while self.owner.pause(0):
            self.handle_request()

    def process_request(self, request: Any, client_address: Any) -> None:
        """Track a connection, to close it at the end, and start its thread."""
        with self._connections_lock:
            self._connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """Close a connection and stop tracking it."""
        with self._connections_lock:
            self._connections.discard(request)
        super().shutdown_request(request)

    def close_connections(self) -> None:
        """End the connections of the threads that wait for a next request."""
        with self._connections_lock:
            for connection in self._connections:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Print nothing: `_Connection.handle` has saved the error."""


class _Connection(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1
    _BODILESS: ClassVar[frozenset[int]] = frozenset({204, 304})

    def handle(self) -> None:
        """Serve one connection; a client that disconnects is no error."""
        try:
            super().handle()
        except (ConnectionError, TimeoutError):
            pass
        except Exception as error:  # noqa: BLE001 -- raised again by HttpServer.close()
            self.server.owner.fail(error)

    def finish(self) -> None:
        """Close the files even if the client disconnects before the last flush."""
        with contextlib.suppress(OSError):
            super().finish()
        self.rfile.close()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 -- the base's name
        """Print nothing."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("do_"):
            return self._serve
        raise AttributeError(name)

    def _serve(self) -> None:
        target = urlsplit(self.path)
        names = {name.lower() for name in self.headers}
        headers = {name: ", ".join(self.headers.get_all(name, [])) for name in names}
        body = self._read_body()
        if body is None:  # the client disconnected within the body
            self.close_connection = True
            return
        request = Request(
            method=self.command,
            path=target.path,
            query=dict(parse_qsl(target.query, keep_blank_values=True)),
            headers=headers,
            body=body,
            clock=time.monotonic(),
            connection=self.client_address[1],
        )
        reply = self.server.owner.answer(request)
        open_still = self.server.owner.pause(reply.hang) if reply.hang else True
        if reply.cut or not open_still:
            self.close_connection = True
            return
        self._send(reply)

    def _read_body(self) -> bytes | None:
        """Return the body, or None if the connection ended within it."""
        if "chunked" not in self.headers.get("Transfer-Encoding", "").lower():
            length = int(self.headers.get("Content-Length", 0))
            body = self.rfile.read(length)
            return body if len(body) == length else None
        body = b""
        while size := int(self.rfile.readline().split(b";")[0], 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        while self.rfile.readline() not in (b"\r\n", b""):
            pass
        return body

    def _send(self, reply: Reply) -> None:
        content, kind = reply.content()
        given = {name.lower() for name in reply.headers}
        self.send_response(reply.status)
        for name, value in reply.headers.items():
            self.send_header(name, value)
        if reply.status not in self._BODILESS:
            if "content-type" not in given:
                self.send_header("Content-Type", kind)
            if "content-length" not in given:
                self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.flush()
        if self.command == "HEAD" or reply.status in self._BODILESS:
            return
        if reply.truncate:
            content = content[: len(content) // 2]
            self.close_connection = True
        if not reply.drip:
            self.wfile.write(content)
        for at in range(len(content) if reply.drip else 0):
            self.wfile.write(content[at : at + 1])
            self.wfile.flush()
            if not self.server.owner.pause(reply.drip):
                self.close_connection = True
                break
