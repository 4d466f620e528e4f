"""The uvicorn options of the receiver, and its limit of open files."""

from __future__ import annotations

import resource
from contextlib import suppress
from typing import Any

from receiver.settings import WebSettings
from receiver.web.http1.protocol import DEADLINE_SECONDS, HardenedHttpProtocol

_GRACE_SECONDS = 15
_MAX_OPEN_FILES = 65_536


def options(settings: WebSettings) -> dict[str, Any]:
    """Return the arguments of ``uvicorn.run`` or ``uvicorn.Config``, without the application."""
    return {
        # One process: "::" alone would refuse IPv4; "" is every address of both.
        "host": "" if settings.host == "::" and settings.web_concurrency == 1 else settings.host,
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


def raise_open_file_limit() -> None:
    """Raise the limit of open files of this process and its children as far as permitted.

    A thousand silent connections exhaust the usual limit of 1,024 open files, and webhooks are
    then rejected until the deadline closes those connections.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = _MAX_OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, _MAX_OPEN_FILES)
    if soft != resource.RLIM_INFINITY and soft < limit:
        with suppress(ValueError, OSError):  # some systems permit less than their hard limit
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
