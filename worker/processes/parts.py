"""The processes that codecatch is made of, each the one way to run it, wherever it runs.

One module for each of them, imported only by the process that is to be it: what the others need
would be loaded for nothing.
"""

from __future__ import annotations

import gc
import importlib
import os
from typing import Final

from receiver import logs
from receiver.errors import ConfigurationError
from receiver.settings import LogSettings, load
from worker.runtime import child_process

PARTS: Final = ("web", "worker", "sender", "beat", "admin")
# What uvicorn and Celery import by name once they run.
_LATER: Final = (
    "celery.app.builtins",
    "celery.app.events",
    "celery.apps.beat",
    "celery.apps.worker",
    "celery.concurrency.prefork",
    "celery.concurrency.thread",
    "kombu.transport.redis",
    "uvicorn.lifespan.on",
    "uvicorn.loops.uvloop",
    "uvicorn.protocols.http.httptools_impl",
    "worker.admin.app",
    "worker.tasks.tasks",
)


def load_all() -> None:
    """Import what all parts need, so that a process that is forked from this one has it."""
    gc.disable()  # nothing of what an import makes is ever let go of
    try:
        for name in (*(f"worker.processes.{part}" for part in PARTS), *_LATER):
            importlib.import_module(name)
    finally:
        gc.enable()
    gc.freeze()  # a collection in a child would copy all memory that it looks at


def run(part: str) -> None:
    """Be one of the parts until told to stop.

    Raises:
        ConfigurationError: there is no such part, or a variable it needs cannot be used.
    """
    if part not in PARTS:
        raise ConfigurationError(f"no part is called {part}: choose one of {', '.join(PARTS)}")
    os.environ[child_process.PART] = part
    child_process.die_with_parent()
    logs.configure(load(LogSettings), part=part)
    importlib.import_module(f"worker.processes.{part}").main()
