"""Name resolution with a deadline."""

from __future__ import annotations

import queue
import socket
import threading
from typing import Any


def resolve(host: str, port: int, timeout: float) -> list[Any]:
    """``socket.getaddrinfo`` for streams, within ``timeout`` seconds.

    It has no timeout of its own and cannot be interrupted, so it runs in a thread, which is left
    behind if it takes longer.

    Raises:
        OSError: the name does not resolve.
        TimeoutError: there is no answer in time.
    """
    answers: queue.SimpleQueue[list[Any] | Exception] = queue.SimpleQueue()

    def ask() -> None:
        try:
            answers.put(list(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)))
        except ValueError:  # its text quotes the name
            answers.put(OSError("not a host name"))
        except OSError as error:
            answers.put(error)

    threading.Thread(target=ask, name="resolve", daemon=True).start()
    try:
        answer = answers.get(timeout=timeout)
    except queue.Empty:
        raise TimeoutError from None
    if isinstance(answer, Exception):
        raise answer
    return answer
