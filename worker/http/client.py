"""The only outbound HTTP client: a list of allowed hosts, one deadline per request, three errors.

Each error says what the server may have done. :class:`HostRefused`: nothing was tried.
:class:`NotSent`: the request did not reach the server. :class:`OutcomeUnknown`: the server may have
processed it. A complete response is a :class:`Response` whatever its status; redirects are not
followed.

httpx2 parses URLs and encodes headers; the connection pool is used directly, because
``httpx2.Client`` logs whole URLs (some are secrets) and shares cookies between its users.
"""

from __future__ import annotations

import json as jsonlib
import math
import ssl
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import UTC
from decimal import Decimal
from email.utils import parsedate_to_datetime
from functools import cache, lru_cache
from typing import Final, NoReturn

import httpcore2
import httpx2

from receiver import clock
from receiver.errors import ConfigurationError
from receiver.settings import TrustSettings, load
from worker.http.hosts import Hosts
from worker.http.network import AddressNotAllowed, NetworkBackend
from worker.http.proxies import Proxies


class HttpError(Exception):
    """No response; the message contains the host and the reason, nothing else of the request."""


class HostRefused(HttpError):
    """The URL is invalid or not allowed; nothing was sent."""


class NotSent(HttpError):
    """The request did not reach the server."""


class AddressRefused(NotSent):
    """The host's name resolved to addresses that are not allowed, this time."""


class OutcomeUnknown(HttpError):
    """The server may have processed the request; no complete response arrived."""


@dataclass(frozen=True, slots=True)
class Response:
    """A complete response; header names are lower case, repeated headers joined by a comma."""

    status: int
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)

    def json(self) -> object:
        """Parse the body as JSON; numbers with a point or an exponent become Decimal.

        Line breaks and other control characters in a string are taken as they are.

        Raises:
            ValueError: the body is not JSON.
        """
        try:
            return jsonlib.loads(
                self.body, parse_float=Decimal, parse_constant=_refuse_constant, strict=False
            )
        except RecursionError:
            raise ValueError("JSON nested too deeply") from None

    def retry_after(self, *, at_most: float) -> float | None:
        """The pause in seconds that ``Retry-After`` asks for; None if it asks for none.

        RFC 9110, 10.2.3: a whole number of seconds, or a date.
        """
        value = self.headers.get("retry-after", "").strip()
        if value.isascii() and value.isdigit():
            return min(float(value), at_most)
        try:
            until = parsedate_to_datetime(value)
        except (ValueError, OverflowError):
            return None
        # A date is in GMT, even if it names no zone (RFC 9110, 5.6.7).
        left = (until.replace(tzinfo=until.tzinfo or UTC) - clock.now()).total_seconds()
        return min(max(left, 0.0), at_most)


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


# The same few URLs are used again and again; parsing one takes a tenth of a whole request.
_url = lru_cache(maxsize=64)(httpx2.URL)
_PLAIN_JSON: Final = jsonlib.JSONEncoder(allow_nan=False, separators=(",", ":"))


def encode_json(value: object) -> str:
    """Encode as compact JSON; a Decimal keeps all its digits, including trailing zeros.

    Raises:
        TypeError: the value has no JSON form.
        ValueError: a number is not finite.
    """
    try:
        return _PLAIN_JSON.encode(value)
    except TypeError:  # almost always a Decimal
        return _encode_json(value)


def _encode_json(value: object) -> str:
    if isinstance(value, Mapping):
        members = (f"{jsonlib.dumps(str(k))}:{_encode_json(v)}" for k, v in value.items())
        return "{" + ",".join(members) + "}"
    if isinstance(value, list | tuple):
        return "[" + ",".join(map(_encode_json, value)) + "]"
    if isinstance(value, Decimal):
        if not value.is_finite():
            raise ValueError("a JSON number must be finite")
        return format(value, "f")
    return jsonlib.dumps(value, allow_nan=False)


_not_after: Final = ContextVar("not_after", default=math.inf)


@contextmanager
def not_after(end: float) -> Iterator[None]:
    """Within the block, this thread sends nothing after ``end`` of :func:`receiver.clock.boottime`.

    A process that the system suspended (a closed laptop, a paused machine) drops its request then.
    """
    token = _not_after.set(end)
    try:
        yield
    finally:
        _not_after.reset(token)


def trust() -> ssl.SSLContext:
    """A new context with the trusted certificate authorities: the system's, and ``CA_FILE``'s.

    ``SSL_CERT_FILE`` and ``SSL_CERT_DIR`` replace the system's.

    Raises:
        ConfigurationError: ``CA_FILE`` has no certificates.
    """
    context = httpx2.create_ssl_context()
    ca_file = load(TrustSettings).ca_file
    if ca_file is not None:
        try:
            context.load_verify_locations(ca_file)
        except (OSError, ssl.SSLError):
            raise ConfigurationError("CA_FILE: must be a file of PEM certificates") from None
    return context


@cache
def system_trust() -> ssl.SSLContext:
    """The context of all HTTP clients, made once because the list is long."""
    return trust()


class HttpClient:
    """Sends requests to the allowed hosts. Safe for use by any number of threads.

    Args:
        allowed_hosts: ``host`` (any port) or ``host:port``, in any case.
        plain_http_hosts: the allowed hosts that may be reached without TLS.
        private_hosts: the allowed hosts whose names may resolve to a private address. An address
            that ``allowed_hosts`` contains may be of any kind.
        connect_timeout: seconds to connect, including the TLS handshake.
        total_timeout: seconds for a whole request, from name resolution to the last byte.
        max_response_bytes: longer bodies are an error and are not read to their end.
        ssl_context: the trusted certificate authorities; by default those of the system.
    """

    def __init__(
        self,
        *,
        allowed_hosts: Iterable[str],
        plain_http_hosts: Iterable[str] = (),
        private_hosts: Iterable[str] = (),
        connect_timeout: float = 3.0,
        total_timeout: float = 7.0,
        max_response_bytes: int = 1_048_576,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        self._allowed = Hosts(allowed_hosts)
        self._plain = Hosts(plain_http_hosts)
        self._connect_timeout = connect_timeout
        self._total_timeout = total_timeout
        self._max_response_bytes = max_response_bytes
        self._context = ssl_context or system_trust()
        self._network = NetworkBackend(self._allowed, Hosts(private_hosts))
        self._pool = self._make_pool(self._network)
        self._proxies = Proxies.from_environment()
        self._proxy_pools: dict[str, httpcore2.ConnectionPool] = {}
        for proxy in self._proxies.urls():
            host = Hosts([proxy.authority])
            backend = NetworkBackend(host, host)
            self._proxy_pools[proxy.url] = self._make_pool(backend, proxy.of(self._context))

    def _make_pool(
        self, network: NetworkBackend, proxy: httpcore2.Proxy | None = None
    ) -> httpcore2.ConnectionPool:
        return httpcore2.ConnectionPool(
            ssl_context=self._context,
            max_connections=None,  # limited by the number of threads
            keepalive_expiry=30.0,
            network_backend=network,
            proxy=proxy,
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
        """Send one request and read its complete response, within ``timeout`` seconds.

        ``params`` are added to the URL's query; ``json`` is used if ``content`` is None;
        ``timeout`` replaces ``total_timeout``.

        Raises:
            HostRefused, NotSent, OutcomeUnknown: see the module.
        """
        total = self._total_timeout if timeout is None else timeout
        target = self.admit(url)
        if params:
            target = target.copy_merge_params(params)
        sent = {"user-agent": "codecatch", "accept": "*/*", "accept-encoding": "identity"}
        if json is not None and content is None:
            content = encode_json(json).encode()
            sent["content-type"] = "application/json"
        sent |= {name.lower(): value for name, value in (headers or {}).items()}
        result = self._exchange(method, target, sent, content, total)
        # Raise outside the except block: the library's error may quote a header and must not become
        # the context of this one.
        if isinstance(result, HttpError):
            raise result
        return result

    def close(self) -> None:
        """Close every connection; requests in flight fail."""
        for pool in (self._pool, *self._proxy_pools.values()):
            pool.close()
        self._network.close()

    def admit(self, url: str) -> httpx2.URL:
        """Parse a URL and check that it is allowed; raises :class:`HostRefused` if not."""
        try:
            target = _url(url)
        except (httpx2.InvalidURL, UnicodeError):
            target = httpx2.URL()
        host = target.raw_host.decode("ascii")
        # A URL without its slashes ends up as a host with a percent sign.
        if target.scheme not in ("http", "https") or not host or "%" in host:
            raise HostRefused("not an absolute http or https URL")
        if target.userinfo:
            raise HostRefused(f"{host}: the URL must not contain credentials")
        port = target.port or (443 if target.scheme == "https" else 80)
        if not self._allowed.has(host, port):
            raise HostRefused(f"{host}: not an allowed host")
        if target.scheme == "http" and not self._plain.has(host, port):
            raise HostRefused(f"{host}: https is required")
        return target

    def _exchange(
        self,
        method: str,
        url: httpx2.URL,
        headers: Mapping[str, str],
        content: bytes | None,
        total: float,
    ) -> Response | HttpError:
        now = clock.boottime()
        end = min(now + total, _not_after.get())
        if now >= end:
            return NotSent(f"{url.host}: its time was over before it could be sent")
        # Deadlines instead of timeouts: see NetworkBackend.
        deadlines = {"connect": min(now + self._connect_timeout, end), "read": end, "write": end}
        address = httpcore2.URL(
            scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path
        )
        body = bytearray()
        try:
            raw = httpx2.Request(method, url, headers=headers, content=content).headers.raw
            proxy = self._proxies.of(url.scheme, url.host)
            pool = self._pool if proxy is None else self._proxy_pools[proxy.url]
            response = pool.handle_request(
                httpcore2.Request(
                    method, address, headers=raw, content=content, extensions={"timeout": deadlines}
                )
            )
            with closing(response):
                for chunk in response.iter_stream():
                    body += chunk
                    if len(body) > self._max_response_bytes:
                        return OutcomeUnknown(f"{url.host}: the response is too long")
        except tuple(error for error, _, _ in _FAILURES) as error:
            _, kind, reason = next(row for row in _FAILURES if isinstance(error, row[0]))
            return kind(f"{url.host}: {reason or error}")
        return Response(
            response.status, dict(httpx2.Headers(response.headers).items()), bytes(body)
        )


# The error to raise for each error of the library, first match first. A row without a reason uses
# the library's message; the other messages may quote a header.
_FAILURES: tuple[tuple[type[Exception], type[HttpError], str], ...] = (
    (httpcore2.LocalProtocolError, NotSent, "the request cannot be written as HTTP"),
    (UnicodeError, NotSent, "the request cannot be written as HTTP"),
    (httpcore2.ConnectTimeout, NotSent, "no connection before the deadline"),
    (AddressNotAllowed, AddressRefused, ""),
    (httpcore2.ProxyError, NotSent, "the proxy did not connect"),
    (httpcore2.ConnectError, NotSent, ""),
    (httpcore2.TimeoutException, OutcomeUnknown, "no complete response before the deadline"),
    (httpcore2.NetworkError, OutcomeUnknown, "the connection was closed"),
    (httpcore2.ProtocolError, OutcomeUnknown, "the response is incomplete or not HTTP"),
)
