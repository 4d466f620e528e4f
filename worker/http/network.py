"""Connections for the HTTP client: each to an address that was judged, and over in time.

A name is resolved once for each connection, and what is connected to is one of the addresses that
were found and admitted then, never the name again.
"""

from __future__ import annotations

import socket
import ssl
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpcore2

from worker.http import hosts
from worker.http.hosts import Hosts

_WRITE_BYTES = 16 * 1024


class AddressNotAllowed(httpcore2.ConnectError):
    """A name leads only to addresses that it may not have."""


class NetworkBackend(httpcore2.NetworkBackend):
    """Makes the ``timeout`` of every operation the instant by which it must be over.

    The pool hands the same value to each read of an answer. As a duration it would start anew
    with every byte that a dribbling server sends; as an instant (``time.monotonic``) it does not.

    Args:
        listed: an address that stands here itself may be connected to, whatever its kind.
        private: these may be on a private address; nobody is found by name on a special one.
    """

    def __init__(self, listed: Hosts, private: Hosts) -> None:
        self._listed = listed
        self._private = private
        self._sockets = httpcore2.SyncBackend()
        # The system's resolver knows no deadline, so it is waited for from outside.
        self._resolver = ThreadPoolExecutor(4, thread_name_prefix="resolve")

    def close(self) -> None:
        """Resolve no more names."""
        self._resolver.shutdown(wait=False, cancel_futures=True)

    def connect_tcp(
        self, host: str, port: int, timeout: float | None = None, *rest: Any, **more: Any
    ) -> httpcore2.NetworkStream:
        """Connect to the first address of the host that can be reached and may be."""
        addresses = self._addresses(host, port, timeout)
        failure: Exception = httpcore2.ConnectError("the name has no address")
        for tried, address in enumerate(addresses):
            # A share for each, so that one that swallows packets leaves time for the others.
            share = _left(timeout, httpcore2.ConnectTimeout) / (len(addresses) - tried)
            try:
                stream = self._sockets.connect_tcp(address, port, share, *rest, **more)
            except (httpcore2.ConnectError, httpcore2.ConnectTimeout) as error:
                failure = error
            else:
                return _DeadlineStream(stream)
        raise failure

    def _addresses(self, host: str, port: int, deadline: float | None) -> list[str]:
        """Where the host is and may be, each address once; only these are connected to."""
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
        everywhere = list(dict.fromkeys(str(address[0]) for *_, address in found))
        admitted = [address for address in everywhere if self._admits(host, port, address)]
        if everywhere and not admitted:
            raise AddressNotAllowed("the name leads to an address that is not allowed")
        return admitted

    def _admits(self, host: str, port: int, found: str) -> bool:
        address = hosts.literal(found)
        if address is None:
            return False
        if hosts.literal(host) == address and self._listed.spells_out(address, port):
            return True
        kind = hosts.kind(address)
        return kind == "public" or (kind == "private" and self._private.has(host, port))


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
