"""One log line per request, without anything that a path or a query could reveal."""

from __future__ import annotations

import time

import structlog
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from receiver import logs

_log = structlog.get_logger(__name__)
# Starlette answers an unhandled exception outside of all middleware, so its status is unseen here.
_UNHANDLED_ERROR_STATUS = 503
# Monitoring polls these every few seconds: only failures are worth a line.
_QUIET_ROUTES = {"healthz", "readyz"}
# Endless guessing must not fill the disk; the first failures of each minute are logged.
_QUIET_STATUS = 429


class AccessLog:
    """Middleware that logs method, route, status, duration and event, but never the path.

    The path may hold a token. An endpoint adds to its line through ``scope["state"]["log"]``.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request and log its outcome."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        details: dict[str, object] = {}
        scope.setdefault("state", {})["log"] = details
        started_at = time.monotonic()
        status = 0

        async def send_and_note_status(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, send_and_note_status)
        except Exception:
            status = status or _UNHANDLED_ERROR_STATUS
            raise
        finally:
            write_line(scope["method"], status, started_at, details)


def write_line(method: str, status: int, started_at: float, details: dict[str, object]) -> None:
    """Log a request that started at ``started_at`` of the monotonic clock.

    ``status`` is 0 for a request that got no response.
    """
    route = str(details.pop("route", "other"))
    success = 0 < status < 400
    if (route in _QUIET_ROUTES and success) or status == _QUIET_STATUS:
        return
    ms = round((time.monotonic() - started_at) * 1000, 1)
    line = {"method": method, "route": route, "status": status, "ms": ms, **details}
    if success:
        logs.info_all(_log, "request.answered", [line])
    else:
        _log.warning("request.answered", **line)
