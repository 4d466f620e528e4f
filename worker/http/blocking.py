"""Blocking calls that have no timeout of their own, name resolution among them."""

from __future__ import annotations

import queue
import socket
import threading
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")


def call(function: Callable[[], T], timeout: float, *, thread: str) -> T:
    """The result of ``function``, which runs in a thread of that name.

    The thread cannot be interrupted: after the timeout it is left behind.

    Raises:
        TimeoutError: there is no result within ``timeout`` seconds.
        Exception: whatever ``function`` raises.
    """
    results: queue.SimpleQueue[tuple[T] | Exception] = queue.SimpleQueue()

    def work() -> None:
        try:
            results.put((function(),))
        except Exception as error:  # noqa: BLE001 - raised again in the caller's thread
            results.put(error)

    threading.Thread(target=work, name=thread, daemon=True).start()
    try:
        result = results.get(timeout=timeout)
    except queue.Empty:
        raise TimeoutError from None
    if isinstance(result, Exception):
        raise result
    return result[0]


def resolve(host: str, port: int, timeout: float) -> list[Any]:
    """``socket.getaddrinfo`` for streams, within ``timeout`` seconds.

    Raises:
        OSError: the name does not resolve.
        TimeoutError: there is no answer in time.
    """

    def ask() -> list[Any]:
        return list(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))

    try:
        return call(ask, timeout, thread="resolve")
    except UnicodeError:  # its text quotes the name
        raise OSError("not a host name") from None
