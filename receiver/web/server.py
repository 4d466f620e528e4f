"""How uvicorn serves the receiver, wherever it is started from."""

from __future__ import annotations

from typing import Any

from receiver.settings import WebSettings
from receiver.web.protocol import DEADLINE_SECONDS, Door

_GRACE_SECONDS = 15


def options(settings: WebSettings) -> dict[str, Any]:
    """What ``uvicorn.run`` and ``uvicorn.Config`` take besides the application."""
    return {
        "host": settings.host,
        "port": settings.port,
        "workers": settings.web_concurrency,
        "loop": "uvloop",
        "http": Door,
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
