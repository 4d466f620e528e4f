"""The part that receives webhooks."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import uvicorn

from receiver import logs
from receiver.settings import LogSettings, WebSettings, load
from receiver.web import server
from receiver.web.app import create_app
from worker.runtime import child_process


def main() -> None:
    """Receive webhooks until told to stop."""
    settings = load(WebSettings)
    if settings.web_concurrency > 1:
        create_app()  # a wrong setting shows here, once, and not in each of the processes
    server.allow_many_connections()
    uvicorn.run(f"{__name__}:application", factory=True, **server.options(settings))


def application() -> Callable[..., Awaitable[None]]:
    """The receiver's application in one of the web processes, which uvicorn may have started."""
    child_process.die_with_parent()
    logs.configure(load(LogSettings), part="web")
    return create_app()
