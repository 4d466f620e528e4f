"""One log line for each request, without what a path or a query could give away."""

from __future__ import annotations

import time

import structlog
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from receiver import logs

_log = structlog.get_logger(logs.ACCESS)
# An exception that nobody expected is answered outside of all middleware.
_ANSWER_TO_A_BUG = 503
# Asked every few seconds by whoever supervises us: only trouble is worth a line.
_QUIET_ROUTES = {"healthz", "readyz"}
# Who guesses without end must not fill the disk; the first guesses of each minute are logged.
_QUIET_STATUS = 429
# What the line of a stored webhook says besides.
_STORED = {"event_id"}


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
        began = time.monotonic()
        status = 0

        async def observe(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, observe)
        except Exception:
            status = status or _ANSWER_TO_A_BUG
            raise
        finally:
            write_line(scope["method"], status, began, details)


def write_line(method: str, status: int, began: float, details: dict[str, object]) -> None:
    """The line of a request that began at ``began`` of the monotonic clock."""
    route = str(details.pop("route", "other"))
    good = 0 < status < 400
    if (route in _QUIET_ROUTES and good) or status == _QUIET_STATUS:
        return
    ms = round((time.monotonic() - began) * 1000, 1)
    if (
        good
        and details.keys() == _STORED
        and logs.write_stored(method, route, status, ms, details["event_id"])
    ):
        return
    log = _log.info if good else _log.warning
    log("request.answered", method=method, route=route, status=status, ms=ms, **details)
