"""Ports for servers that must know theirs before they start."""

import random
import socket

_RANGE = range(15_000, 32_000)
_given: set[int] = set()
_random = random.SystemRandom()


def free_port() -> int:
    """Return a TCP port that is free on 127.0.0.1, never the same one twice in a process.

    It lies below the range from which the kernel takes the ports of outgoing connections: so
    none of these takes it while its server is down, nor connects to itself by chance.
    """
    for _ in range(1_000):
        port = _random.choice(_RANGE)
        if port not in _given and _can_be_bound(port):
            _given.add(port)
            return port
    raise RuntimeError(f"no free port found in {_RANGE}")


def _can_be_bound(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as sock:
        try:
            sock.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
