"""The only outbound HTTP: an allow-list of hosts, one deadline for the exchange, three failures.

A failure says what may be concluded from it. :class:`HostRefused`: nothing was tried.
:class:`NotSent`: it was tried, and the far side certainly has nothing of it.
:class:`OutcomeUnknown`: the far side may have acted. Any whole answer, whatever its status, is a
:class:`Response`; redirects are not followed.

httpx2 reads URLs and frames requests; its connection pool is driven directly, because
``httpx2.Client`` logs whole URLs (some are secrets) and keeps cookies for whoever shares it.
"""

from __future__ import annotations

import json as jsonlib
import socket
import ssl
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, NoReturn

import httpcore2
import httpx2

_MAX_CONNECTIONS = 100
_IDLE_SECONDS = 30.0
_RESOLVER_THREADS = 4
_WRITE_BYTES = 16 * 1024


class HttpError(Exception):
    """No answer; the message names the host and the reason, never more of the request."""


class HostRefused(HttpError):
    """The URL is none that may be asked; nothing was sent."""


class NotSent(HttpError):
    """The far side was not reached, and has nothing of the request."""


class OutcomeUnknown(HttpError):
    """The request may have been processed; no whole answer came."""


@dataclass(frozen=True, slots=True)
class Response:
    """A whole answer. Header names are in lower case; repeated headers are joined by a comma."""

    status: int
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)

    def json(self) -> object:
        """The body read as JSON, numbers with a point or an exponent as Decimal.

        Raises:
            ValueError: it is not JSON.
        """
        try:
            return jsonlib.loads(self.body, parse_float=Decimal, parse_constant=_refuse_constant)
        except RecursionError:
            raise ValueError("JSON nested too deeply") from None


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def encode_json(value: object) -> str:
    """Compact JSON. A Decimal keeps its digits to the last zero, which no float would.

    Raises:
        TypeError: the value has no JSON form.
        ValueError: a number is not finite.
    """
    if isinstance(value, Mapping):
        members = (f"{jsonlib.dumps(str(k))}:{encode_json(v)}" for k, v in value.items())
        return "{" + ",".join(members) + "}"
    if isinstance(value, list | tuple):
        return "[" + ",".join(map(encode_json, value)) + "]"
    if isinstance(value, Decimal):
        if not value.is_finite():
            raise ValueError("a JSON number is finite")
        return format(value, "f")
    return jsonlib.dumps(value, allow_nan=False)


class HttpClient:
    """Sends requests to the hosts it was given. One instance serves any number of threads.

    Args:
        allowed_hosts: ``host`` (any port) or ``host:port``, in any case.
        plain_http_hosts: those of them that may be asked without TLS.
        connect_timeout: seconds to have a connection, TLS included.
        total_timeout: seconds for the whole exchange, from resolving the name to the last byte.
        max_response_bytes: a longer body is not read to its end.
        ssl_context: which authorities vouch for a host; the system's, if not given.
    """

    def __init__(
        self,
        *,
        allowed_hosts: Iterable[str],
        plain_http_hosts: Iterable[str] = (),
        connect_timeout: float = 3.0,
        total_timeout: float = 7.0,
        max_response_bytes: int = 1_048_576,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        self._allowed = frozenset(map(_authority, allowed_hosts))
        self._plain = frozenset(map(_authority, plain_http_hosts))
        self._connect_timeout = connect_timeout
        self._total_timeout = total_timeout
        self._max_response_bytes = max_response_bytes
        self._network = _DeadlineBackend()
        self._pool = httpcore2.ConnectionPool(
            ssl_context=ssl_context or httpx2.create_ssl_context(trust_env=False),
            max_connections=_MAX_CONNECTIONS,
            keepalive_expiry=_IDLE_SECONDS,
            network_backend=self._network,
        )

    def request(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        params: Mapping[str, str | int] | None = None,
        json: object | None = None,
        content: bytes | None = None,
        timeout: float | None = None,
    ) -> Response:
        """Send one request and read its whole answer, within ``timeout`` seconds.

        ``params`` are added to the URL's own query; ``json`` is used where ``content`` is None;
        ``timeout`` stands in for ``total_timeout``.

        Raises:
            HostRefused, NotSent, OutcomeUnknown: see the module.
        """
        total = self._total_timeout if timeout is None else timeout
        target = self._admit(url)
        if params:
            target = target.copy_merge_params(params)
        wanted = {"user-agent": "codecatch", "accept": "*/*", "accept-encoding": "identity"}
        if json is not None and content is None:
            content = encode_json(json).encode()
            wanted["content-type"] = "application/json"
        wanted |= {name.lower(): value for name, value in (headers or {}).items()}
        answer = self._exchange(method, target, wanted, content, total)
        # Raised out here, so that no exception of a library, which may quote a header, is its
        # context.
        if isinstance(answer, HttpError):
            raise answer
        return answer

    def close(self) -> None:
        """Close every connection; requests still in flight end as failures."""
        self._pool.close()
        self._network.close()

    def _admit(self, url: str) -> httpx2.URL:
        try:
            target = httpx2.URL(url)
        except (httpx2.InvalidURL, UnicodeError):
            target = httpx2.URL()
        host = target.raw_host.decode("ascii")
        # No name has a percent sign; it is where a URL without its slashes ends up.
        if target.scheme not in ("http", "https") or not host or "%" in host:
            raise HostRefused("not an absolute http or https URL")
        if target.userinfo:
            raise HostRefused(f"{host}: credentials do not belong into a URL")
        names = {(host, None), (host, target.port or (443 if target.scheme == "https" else 80))}
        if not names & self._allowed:
            raise HostRefused(f"{host}: not an allowed host")
        if target.scheme == "http" and not names & self._plain:
            raise HostRefused(f"{host}: https is wanted")
        return target

    def _exchange(
        self,
        method: str,
        url: httpx2.URL,
        headers: Mapping[str, str],
        content: bytes | None,
        total: float,
    ) -> Response | HttpError:
        host = url.host
        now = time.monotonic()
        connect = min(self._connect_timeout, total)
        instants = {"connect": now + connect, "read": now + total, "write": now + total}
        try:
            framed = httpx2.Request(method, url, headers=headers, content=content)
            answer = self._pool.handle_request(
                httpcore2.Request(
                    framed.method,
                    httpcore2.URL(
                        scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path
                    ),
                    headers=framed.headers.raw,
                    content=content,
                    extensions={"timeout": {"pool": connect, **instants}},
                )
            )
            try:
                body = self._read(answer)
            finally:
                answer.close()
        except _FAILING as error:
            return _failure(host, error)
        if body is None:
            return OutcomeUnknown(f"{host}: the answer is over {self._max_response_bytes} bytes")
        return Response(answer.status, _joined(answer.headers), body)

    def _read(self, answer: httpcore2.Response) -> bytes | None:
        """The whole body; None, and the rest unread, where it is over the limit."""
        body = bytearray()
        for chunk in answer.iter_stream():
            body += chunk
            if len(body) > self._max_response_bytes:
                return None
        return bytes(body)


_FAILING = (
    httpcore2.TimeoutException,
    httpcore2.NetworkError,
    httpcore2.ProtocolError,
    UnicodeError,
)


def _failure(host: str, error: Exception) -> HttpError:
    """What an error of the library lets us conclude; only a refused connection is quoted."""
    match error:
        case httpcore2.LocalProtocolError() | UnicodeError():
            return NotSent(f"{host}: the request cannot be written as HTTP")
        case httpcore2.ConnectTimeout() | httpcore2.PoolTimeout():
            return NotSent(f"{host}: no connection in time")
        case httpcore2.ConnectError():
            return NotSent(f"{host}: {error}")
        case httpcore2.TimeoutException():
            return OutcomeUnknown(f"{host}: no whole answer in time")
        case _:
            return OutcomeUnknown(f"{host}: the answer was cut short or is not HTTP")


def _authority(name: str) -> tuple[str, int | None]:
    """The host, as it stands on the wire, and the port of a ``host`` or ``host:port`` name."""
    bracketed = f"[{name}]" if name.count(":") > 1 and not name.startswith("[") else name
    try:
        # Of a scheme that has no default port, which would be read as no port at all.
        url = httpx2.URL(f"any://{bracketed}")
    except httpx2.InvalidURL:
        url = httpx2.URL()
    if not url.raw_host or url.raw_path not in (b"", b"/") or url.userinfo:
        raise ValueError("an allowed host is named as host or host:port")
    return url.raw_host.decode("ascii").lower(), url.port


def _joined(headers: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    joined: dict[str, str] = {}
    for raw_name, raw_value in headers:
        name, value = raw_name.decode("latin-1").lower(), raw_value.decode("latin-1")
        joined[name] = f"{joined[name]}, {value}" if name in joined else value
    return joined


class _DeadlineBackend(httpcore2.NetworkBackend):
    """Makes the ``timeout`` of every operation the instant by which it must be over.

    The pool hands the same value to each read of an answer. As a duration it would start anew
    with every byte that a dribbling server sends; as an instant (``time.monotonic``) it does not.
    """

    def __init__(self) -> None:
        self._sockets = httpcore2.SyncBackend()
        # The system's resolver knows no deadline, so it is waited for from outside.
        self._resolver = ThreadPoolExecutor(_RESOLVER_THREADS, thread_name_prefix="resolve")

    def close(self) -> None:
        self._resolver.shutdown(wait=False, cancel_futures=True)

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore2.NetworkStream:
        addresses = self._addresses(host, port, timeout)
        for waiting in range(len(addresses), 0, -1):
            # A share for each, so that one address that swallows packets leaves time for others.
            share = _left(timeout, httpcore2.ConnectTimeout) / waiting
            try:
                stream = self._sockets.connect_tcp(
                    addresses[-waiting], port, share, local_address, socket_options
                )
            except (httpcore2.ConnectError, httpcore2.ConnectTimeout):
                if waiting == 1:
                    raise
            else:
                return _DeadlineStream(stream)
        raise httpcore2.ConnectError("the name has no address")

    def _addresses(self, host: str, port: int, deadline: float | None) -> list[str]:
        """Where the host is, by address, each once; only these are connected to."""
        try:
            found = self._resolver.submit(
                socket.getaddrinfo, host, port, type=socket.SOCK_STREAM
            ).result(_left(deadline, httpcore2.ConnectTimeout))
        except TimeoutError:
            raise httpcore2.ConnectTimeout from None
        except (OSError, UnicodeError):
            raise httpcore2.ConnectError("the name does not resolve") from None
        except RuntimeError:
            raise httpcore2.ConnectError("the client is closed") from None
        return list(dict.fromkeys(str(address[0]) for *_, address in found))


class _DeadlineStream(httpcore2.NetworkStream):
    """A connection whose operations end by an instant."""

    def __init__(self, stream: httpcore2.NetworkStream) -> None:
        self._stream = stream

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._stream.read(max_bytes, _left(timeout, httpcore2.ReadTimeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        for start in range(0, len(buffer), _WRITE_BYTES):
            piece = buffer[start : start + _WRITE_BYTES]
            self._stream.write(piece, _left(timeout, httpcore2.WriteTimeout))

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> httpcore2.NetworkStream:
        # Even a late handshake is begun, because it is its failure that closes the socket.
        left = max((timeout or 0.0) - time.monotonic(), 0.001)
        return _DeadlineStream(self._stream.start_tls(ssl_context, server_hostname, left))

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


def _left(instant: float | None, late: type[httpcore2.TimeoutException]) -> float:
    """Seconds until the instant; raises ``late`` when there are none."""
    left = (instant or 0.0) - time.monotonic()
    if left <= 0:
        raise late
    return left
