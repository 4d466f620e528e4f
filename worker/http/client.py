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
import ssl
import time
from collections.abc import Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from decimal import Decimal
from functools import cache, lru_cache
from typing import Final, NoReturn

import httpcore2
import httpx2

from worker.http.hosts import Hosts
from worker.http.network import AddressNotAllowed, NetworkBackend


class HttpError(Exception):
    """No answer; the message names the host and the reason, never more of the request."""


class HostRefused(HttpError):
    """The URL is none that may be asked; nothing was sent."""


class NotSent(HttpError):
    """The far side was not reached, and has nothing of the request."""


class AddressRefused(NotSent):
    """The name of the host led to addresses that it may not have, this time."""


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


# Few are asked again and again, and to read one costs a tenth of the whole exchange.
_url = lru_cache(maxsize=64)(httpx2.URL)
_PLAIN_JSON: Final = jsonlib.JSONEncoder(allow_nan=False, separators=(",", ":"))


def encode_json(value: object) -> str:
    """Compact JSON. A Decimal keeps its digits to the last zero, which no float would.

    Raises:
        TypeError: the value has no JSON form.
        ValueError: a number is not finite.
    """
    try:
        return _PLAIN_JSON.encode(value)
    except TypeError:  # a Decimal, nearly always
        return _encode_json(value)


def _encode_json(value: object) -> str:
    if isinstance(value, Mapping):
        members = (f"{jsonlib.dumps(str(k))}:{_encode_json(v)}" for k, v in value.items())
        return "{" + ",".join(members) + "}"
    if isinstance(value, list | tuple):
        return "[" + ",".join(map(_encode_json, value)) + "]"
    if isinstance(value, Decimal):
        if not value.is_finite():
            raise ValueError("a JSON number is finite")
        return format(value, "f")
    return jsonlib.dumps(value, allow_nan=False)


@cache
def system_trust() -> ssl.SSLContext:
    """Who vouches for hosts on this system: read once, since it is a long list."""
    return httpx2.create_ssl_context(trust_env=False)


class HttpClient:
    """Sends requests to the hosts it was given. One instance serves any number of threads.

    Args:
        allowed_hosts: ``host`` (any port) or ``host:port``, in any case.
        plain_http_hosts: those of them that may be asked without TLS.
        private_hosts: those of them whose names may lead to a private address. An address that
            ``allowed_hosts`` spells out is asked as it is.
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
        self._network = NetworkBackend(self._allowed, Hosts(private_hosts))
        self._pool = httpcore2.ConnectionPool(
            ssl_context=ssl_context or system_trust(),
            max_connections=None,  # there are as many as threads that ask
            keepalive_expiry=30.0,
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
        target = self.admit(url)
        if params:
            target = target.copy_merge_params(params)
        wanted = {"user-agent": "codecatch", "accept": "*/*", "accept-encoding": "identity"}
        if json is not None and content is None:
            content = encode_json(json).encode()
            wanted["content-type"] = "application/json"
        wanted |= {name.lower(): value for name, value in (headers or {}).items()}
        answer = self._exchange(method, target, wanted, content, total)
        # Raised out here: an error of the library, which may quote a header, is not its context.
        if isinstance(answer, HttpError):
            raise answer
        return answer

    def close(self) -> None:
        """Close every connection; requests still in flight end as failures."""
        self._pool.close()
        self._network.close()

    def admit(self, url: str) -> httpx2.URL:
        """The URL, if it is one that may be asked; raises :class:`HostRefused` if it is not."""
        try:
            target = _url(url)
        except (httpx2.InvalidURL, UnicodeError):
            target = httpx2.URL()
        host = target.raw_host.decode("ascii")
        # A percent sign is where a URL without its slashes ends up.
        if target.scheme not in ("http", "https") or not host or "%" in host:
            raise HostRefused("not an absolute http or https URL")
        if target.userinfo:
            raise HostRefused(f"{host}: credentials do not belong into a URL")
        port = target.port or (443 if target.scheme == "https" else 80)
        if not self._allowed.has(host, port):
            raise HostRefused(f"{host}: not an allowed host")
        if target.scheme == "http" and not self._plain.has(host, port):
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
        now = time.monotonic()
        end = now + total
        instants = {"connect": min(now + self._connect_timeout, end), "read": end, "write": end}
        address = httpcore2.URL(
            scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path
        )
        body = bytearray()
        try:
            raw = httpx2.Request(method, url, headers=headers, content=content).headers.raw
            answer = self._pool.handle_request(
                httpcore2.Request(
                    method, address, headers=raw, content=content, extensions={"timeout": instants}
                )
            )
            with closing(answer):
                for chunk in answer.iter_stream():
                    body += chunk
                    if len(body) > self._max_response_bytes:
                        return OutcomeUnknown(f"{url.host}: the answer is too long")
        except tuple(error for error, _, _ in _FAILURES) as error:
            _, kind, words = next(row for row in _FAILURES if isinstance(error, row[0]))
            return kind(f"{url.host}: {words or error}")
        return Response(answer.status, dict(httpx2.Headers(answer.headers).items()), bytes(body))


# What an error lets us conclude; the first row that fits counts. Other words may quote a header.
_FAILURES: tuple[tuple[type[Exception], type[HttpError], str], ...] = (
    (httpcore2.LocalProtocolError, NotSent, "the request cannot be written as HTTP"),
    (UnicodeError, NotSent, "the request cannot be written as HTTP"),
    (httpcore2.ConnectTimeout, NotSent, "no connection in time"),
    (AddressNotAllowed, AddressRefused, ""),
    (httpcore2.ConnectError, NotSent, ""),
    (httpcore2.TimeoutException, OutcomeUnknown, "no whole answer in time"),
    (httpcore2.NetworkError, OutcomeUnknown, "the connection was cut"),
    (httpcore2.ProtocolError, OutcomeUnknown, "the answer was cut short or is not HTTP"),
)
