"""The ``web`` part: receives webhooks."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import uvicorn

from receiver import logs
from receiver.settings import LogSettings, WebSettings, load
from receiver.web import server
from receiver.web.app import create_app
from worker.runtime import child_process


def main() -> None:
    """Receive webhooks until SIGTERM or SIGINT."""
    settings = load(WebSettings)
    if settings.web_concurrency > 1:
        create_app()  # report an invalid setting once, not in each process
    server.raise_open_file_limit()
    uvicorn.run(f"{__name__}:application", factory=True, **server.options(settings))


def application() -> Callable[..., Awaitable[None]]:
    """The ASGI application in one web process, which uvicorn may have started."""
    child_process.die_with_parent()
    child_process.name_process("web")
    logs.configure(load(LogSettings), part="web")
    return create_app()
