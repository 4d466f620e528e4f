"""One log line for each request, without what a path or a query could give away."""

from __future__ import annotations

import time

import structlog
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_log = structlog.get_logger("receiver.access")
# Asked every few seconds by whoever supervises us: only trouble is worth a line.
_QUIET_ROUTES = {"healthz", "readyz"}


class AccessLog:
    """Logs method, route, status, duration and event; never the path, which may hold a token.

    An endpoint puts what the line should carry into ``scope["state"]["log"]``.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request and log how it ended."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        details: dict[str, object] = {}
        scope.setdefault("state", {})["log"] = details
        started = time.perf_counter()
        status = 0

        async def observe(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        await self._app(scope, receive, observe)
        route = details.pop("route", "other")
        if route in _QUIET_ROUTES and status < 500:
            return
        log = _log.info if status < 400 else _log.warning
        log(
            "request.answered",
            method=scope["method"],
            route=route,
            status=status,
            ms=round((time.perf_counter() - started) * 1000, 1),
            **details,
        )
