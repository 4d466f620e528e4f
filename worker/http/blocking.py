"""Blocking calls that have no timeout of their own, name resolution among them."""

from __future__ import annotations

import queue
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, Final, TypeVar

# How long nobody waits again for a name that was silent.
FAILURE_SECONDS: Final = 3.0
# A name without an answer for this long is silent. A failure that comes sooner costs nobody time.
SILENT_SECONDS: Final = 1.0
_MAX_FAILURES = 1000
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


class Resolver:
    """Resolves names, one look-up at a time for each.

    A look-up cannot be interrupted. While one of a silent name runs, whoever asks for that name
    shares it, instead of leaving one more thread behind; and for a while after it failed or was not
    answered in time, nobody waits for that name again.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._running: dict[tuple[str, int], tuple[float, Future[list[Any]]]] = {}
        self._failed: dict[tuple[str, int], tuple[float, OSError]] = {}

    def resolve(self, host: str, port: int, timeout: float) -> list[Any]:
        """``socket.getaddrinfo`` for streams, within ``timeout`` seconds.

        Raises:
            OSError: the name does not resolve.
            TimeoutError: there is no answer in time.
        """
        name = (host, port)
        with self._lock:
            until, failure = self._failed.get(name, (0.0, OSError()))
            if self._clock() < until:
                raise type(failure)(*failure.args)
            since, found = self._running.get(name) or self._start(name)
        try:
            return found.result(timeout)
        except TimeoutError as silent:
            self._fail_if_silent(name, since, silent)
            raise TimeoutError from None
        except OSError as error:
            raise type(error)(*error.args) from None

    def _start(self, name: tuple[str, int]) -> tuple[float, Future[list[Any]]]:
        found: Future[list[Any]] = Future()
        running = self._running[name] = (self._clock(), found)

        def ask() -> None:
            try:
                addresses = list(socket.getaddrinfo(*name, type=socket.SOCK_STREAM))
            except UnicodeError:  # its text quotes the name
                self._end(name, found, OSError("not a host name"))
            except Exception as error:  # noqa: BLE001 - raised again in the threads that wait
                self._end(name, found, error)
            else:
                self._end(name, found, addresses)

        threading.Thread(target=ask, name="resolve", daemon=True).start()
        return running

    def _end(
        self, name: tuple[str, int], found: Future[list[Any]], outcome: list[Any] | Exception
    ) -> None:
        with self._lock:
            since, _ = self._running.pop(name)
            if not isinstance(outcome, Exception):
                self._failed.pop(name, None)  # it answers again
        if isinstance(outcome, OSError):
            self._fail_if_silent(name, since, outcome)
        if isinstance(outcome, Exception):
            found.set_exception(outcome)
        else:
            found.set_result(outcome)

    def _fail_if_silent(self, name: tuple[str, int], since: float, failure: OSError) -> None:
        now = self._clock()
        if now - since < SILENT_SECONDS:
            return
        with self._lock:
            while len(self._failed) >= _MAX_FAILURES:
                del self._failed[next(iter(self._failed))]
            self._failed[name] = (now + FAILURE_SECONDS, failure)


# One for the process: a name that is silent is so for everybody.
resolve = Resolver().resolve
