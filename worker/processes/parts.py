"""The parts of codecatch: the processes it consists of.

Each part has one module here. A process imports only the module of its own part, to save the time
and the memory that the others would take.
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

# Celery reads this when it is imported; otherwise it renames its processes after their arguments.
os.environ.setdefault("NOSETPS", "1")
PARTS: Final = ("web", "worker", "sender", "beat", "admin")
# Modules that uvicorn and Celery import by name when they run.
_LAZY_IMPORTS: Final = (
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
    """Import the modules of all parts, so that forked children share their memory."""
    for name in (*(f"worker.processes.{part}" for part in PARTS), *_LAZY_IMPORTS):
        importlib.import_module(name)
    # Else a collection in a child would copy shared memory pages: 373 MiB instead of 278.
    gc.freeze()


def run(part: str) -> None:
    """Run a part until SIGTERM or SIGINT.

    Raises:
        ConfigurationError: the part is unknown, or a variable it needs is missing or invalid.
    """
    if part not in PARTS:
        raise ConfigurationError(f"unknown part {part}; choose one of {', '.join(PARTS)}")
    os.environ[child_process.PART] = part
    child_process.die_with_parent()
    child_process.name_process(part)
    logs.configure(load(LogSettings), part=part)
    importlib.import_module(f"worker.processes.{part}").main()
