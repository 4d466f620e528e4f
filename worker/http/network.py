"""Connections for the HTTP client: to checked addresses only, with a deadline.

A name is resolved once per connection. The connection is made to one of the resolved addresses that
are allowed, never to the name, which could resolve differently the next time (DNS rebinding).
"""

from __future__ import annotations

import ssl
from typing import Any

import httpcore2

from receiver import clock
from worker.http import hosts
from worker.http.blocking import resolve
from worker.http.hosts import Hosts

# The deadline is checked again after each piece.
_WRITE_BYTES = 16 * 1024


class AddressNotAllowed(httpcore2.ConnectError):
    """A name resolves only to addresses that are not allowed."""


class NetworkBackend(httpcore2.NetworkBackend):
    """Treats the ``timeout`` of every operation as a deadline (:func:`receiver.clock.boottime`).

    The pool passes the same value to each read of a response. As a duration it would restart with
    every byte that a slow server sends; as a deadline it does not.

    Args:
        listed: an address in this set is allowed, whatever its kind.
        private: these names may resolve to a private address; no name may resolve to a special one.
    """

    def __init__(self, listed: Hosts, private: Hosts) -> None:
        self._listed = listed
        self._private = private
        self._sockets = httpcore2.SyncBackend()
        self._is_closed = False

    def close(self) -> None:
        """Open no more connections."""
        self._is_closed = True

    def connect_tcp(
        self, host: str, port: int, timeout: float | None = None, *rest: Any, **more: Any
    ) -> httpcore2.NetworkStream:
        """Connect to the first allowed address of the host that accepts a connection."""
        if self._is_closed:
            raise httpcore2.ConnectError("the client is closed")
        addresses = self._addresses(host, port, timeout)
        failure: Exception = httpcore2.ConnectError("the name has no address")
        for tried, address in enumerate(addresses):
            # Divide the time, so that an address that drops packets leaves time for the others.
            share = _left(timeout, httpcore2.ConnectTimeout) / (len(addresses) - tried)
            try:
                stream = self._sockets.connect_tcp(address, port, share, *rest, **more)
            except (httpcore2.ConnectError, httpcore2.ConnectTimeout) as error:
                failure = error
            else:
                return _DeadlineStream(stream)
        raise failure

    def _addresses(self, host: str, port: int, deadline: float | None) -> list[str]:
        """Resolve the host; only the allowed addresses, without duplicates."""
        try:
            found = resolve(host, port, _left(deadline, httpcore2.ConnectTimeout))
        except TimeoutError:
            raise httpcore2.ConnectTimeout from None
        except OSError:
            raise httpcore2.ConnectError("the name does not resolve") from None
        resolved = list(dict.fromkeys(str(address[0]) for *_, address in found))
        allowed = [address for address in resolved if self._is_allowed(host, port, address)]
        if resolved and not allowed:
            raise AddressNotAllowed("the name resolves to an address that is not allowed")
        return allowed

    def _is_allowed(self, host: str, port: int, resolved: str) -> bool:
        address = hosts.literal(resolved)
        if address is None:
            return False
        if hosts.literal(host) == address and self._listed.spells_out(address, port):
            return True
        kind = hosts.kind(address)
        return kind == "public" or (kind == "private" and self._private.has(host, port))


class _DeadlineStream(httpcore2.NetworkStream):
    """A connection whose operations have deadlines instead of timeouts."""

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
        # Start the handshake even after the deadline: its failure is what closes the socket.
        left = max((timeout or 0.0) - clock.boottime(), 0.001)
        return _DeadlineStream(self._stream.start_tls(ssl_context, server_hostname, left))

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


def _left(deadline: float | None, error: type[httpcore2.TimeoutException]) -> float:
    """Seconds until the deadline; raises ``error`` if it has passed."""
    left = (deadline or 0.0) - clock.boottime()
    if left <= 0:
        raise error
    return left
