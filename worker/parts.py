"""The processes that codecatch is made of, each the one way to run it, wherever it runs."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

import uvicorn

from receiver import logs, queue
from receiver.errors import ConfigurationError
from receiver.settings import LogSettings, WebSettings, load
from receiver.web import server
from receiver.web.app import create_app
from worker import processes
from worker.admin.settings import AdminSettings
from worker.celery_app import PART, make_app
from worker.runtime import connect

# Threads that wait for the network cost little; each destination gets only a few of them.
_SENDER_THREADS: Final = 16


def run(part: str) -> None:
    """Be one of the parts until told to stop.

    Raises:
        ConfigurationError: there is no such part, or a variable it needs cannot be used.
    """
    runner = PARTS.get(part)
    if runner is None:
        raise ConfigurationError(f"no part is called {part}: choose one of {', '.join(PARTS)}")
    os.environ[PART] = part
    processes.die_with_parent()
    logs.configure(load(LogSettings), part=part)
    runner()


def web() -> None:
    """Receive webhooks."""
    settings = load(WebSettings)
    if settings.web_concurrency > 1:
        create_app()  # a wrong setting shows here, once, and not in each of the processes
    server.allow_many_connections()
    uvicorn.run(f"{__name__}:web_application", factory=True, **server.options(settings))


def web_application() -> Callable[..., Awaitable[None]]:
    """The receiver's application in one of the web processes, which uvicorn may have started."""
    processes.die_with_parent()
    logs.configure(load(LogSettings), part="web")
    return create_app()


def admin() -> None:
    """Serve metrics to whoever has the token."""
    settings = load(AdminSettings)
    uvicorn.run(
        "worker.admin.app:create_app",
        factory=True,
        host=settings.admin_host,
        port=settings.admin_port,
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=5,
    )


def worker() -> None:
    """Handle stored events, and sweep."""
    runtime = connect()
    # SQLite has one writer: more processes would only wait for each other.
    concurrency = (os.cpu_count() or 2) if runtime.database.is_postgresql else 2
    runtime.close()
    _celery_worker("prefork", concurrency, queue.WORKER_QUEUES)


def sender() -> None:
    """Confirm orders and tell destinations."""
    connect().close()
    _celery_worker("threads", _SENDER_THREADS, queue.SENDER_QUEUES)


def beat() -> None:
    """Give the clock's ticks to the worker and the sender."""
    make_app().start(["--quiet", "beat", "--loglevel=INFO"])


PARTS: Final[Mapping[str, Callable[[], None]]] = {
    "web": web,
    "worker": worker,
    "sender": sender,
    "beat": beat,
    "admin": admin,
}


def _celery_worker(pool: str, concurrency: int, queues: tuple[str, ...]) -> None:
    make_app().start(
        [
            "--quiet",
            "worker",
            f"--hostname={os.environ[PART]}@%h",
            f"--pool={pool}",
            f"--concurrency={concurrency}",
            f"--queues={','.join(queues)}",
            "--without-gossip",
            "--without-mingle",
            "--without-heartbeat",
            "--loglevel=INFO",
        ]
    )
