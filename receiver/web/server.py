"""How uvicorn serves the receiver, wherever it is started from."""

from __future__ import annotations

import resource
from contextlib import suppress
from typing import Any

from receiver.settings import WebSettings
from receiver.web.http1.protocol import DEADLINE_SECONDS, HardenedHttpProtocol

_GRACE_SECONDS = 15
_MOST_CONNECTIONS = 65_536


def options(settings: WebSettings) -> dict[str, Any]:
    """What ``uvicorn.run`` and ``uvicorn.Config`` take besides the application."""
    return {
        "host": settings.host,
        "port": settings.port,
        "workers": settings.web_concurrency,
        "loop": "uvloop",
        "http": HardenedHttpProtocol,
        "ws": "none",
        "lifespan": "on",
        "log_config": None,
        "access_log": False,
        "server_header": False,
        "proxy_headers": bool(settings.forwarded_allow_ips),
        "forwarded_allow_ips": [str(network) for network in settings.forwarded_allow_ips],
        "timeout_keep_alive": DEADLINE_SECONDS,
        "timeout_graceful_shutdown": _GRACE_SECONDS,
    }


def allow_many_connections() -> None:
    """Let this process and its children hold as many connections as the system permits.

    The usual limit of 1,024 open files is reached by a thousand connections that say nothing, and
    honest ones are turned away until their deadline.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MOST_CONNECTIONS if hard == resource.RLIM_INFINITY else min(hard, _MOST_CONNECTIONS)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with suppress(ValueError, OSError):  # some systems permit less than they say
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
