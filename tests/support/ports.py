"""Free ports for servers that need a port number before they start."""

import random
import socket

_RANGE = range(15_000, 32_000)
_used: set[int] = set()
_random = random.SystemRandom()


def free_port() -> int:
    """Return a free TCP port on 127.0.0.1, never the same one twice in a process.

    It is below the kernel's range for outgoing connections. Such a connection therefore cannot take
    the port while its server is down, or connect to itself by chance.
    """
    for _ in range(1_000):
        port = _random.choice(_RANGE)
        if port not in _used and _can_be_bound(port):
            _used.add(port)
            return port
    raise RuntimeError(f"no free port found in {_RANGE}")


def _can_be_bound(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as sock:
        try:
            sock.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
