"""What makes a run of many tests quick, and changes nothing that they test."""

from __future__ import annotations

import asyncio
import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import sqlalchemy
import uvicorn.server
from sqlalchemy import Engine
from sqlalchemy.engine.default import DefaultDialect

from receiver.database import engine as engines
from receiver.web import app

MEMORY = Path("/dev/shm")
_PAUSE_SECONDS = 0.005
_STATEMENTS = 5_000


def is_roomy(folder: Path) -> bool:
    """Whether the directory exists, has a free gigabyte, and allows programs to run."""
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        return False
    info = os.statvfs(folder)
    noexec = getattr(os, "ST_NOEXEC", 0)  # Linux only
    return info.f_bavail * info.f_frsize > 1 << 30 and not info.f_flag & noexec


class _Asyncio(SimpleNamespace):
    def __getattr__(self, name: str) -> Any:
        return getattr(asyncio, name)


async def _sleep(seconds: float) -> None:
    await asyncio.sleep(min(seconds, _PAUSE_SECONDS))


IMPATIENT = _Asyncio(sleep=_sleep)
"""asyncio for a module that sleeps only between looks at a condition."""


def _share_statements() -> None:
    """Compile a statement once for each kind of database, not once for each test's engine."""
    compiled: dict[str, Any] = {}

    def create_engine(*args: Any, **options: Any) -> Engine:
        made = sqlalchemy.create_engine(*args, query_cache_size=_STATEMENTS, **options)
        made._compiled_cache = compiled.setdefault(made.dialect.name, made._compiled_cache)
        return made

    def is_equal(one: DefaultDialect, other: object) -> bool:
        return type(one) is type(other)

    def number(one: DefaultDialect) -> int:
        return hash(type(one))

    # A dialect is a part of a statement's key.
    for name, value in {"__eq__": is_equal, "__hash__": number}.items():
        setattr(DefaultDialect, name, value)
    engines.create_engine = create_engine  # type: ignore[attr-defined]


@contextmanager
def _tuned_at_once() -> Iterator[None]:
    before = gc.get_threshold()
    gc.set_threshold(*app._GC_THRESHOLDS)
    gc.freeze()
    try:
        yield
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()


def be_quick() -> None:
    """Apply all of it to this process."""
    # A file in memory is written without waiting for a disk: half of the time of some tests.
    if is_roomy(MEMORY):
        os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(MEMORY))
    # uvicorn looks every 0.1 s whether it should stop; all it sleeps for is that condition.
    setattr(uvicorn.server, "asyncio", IMPATIENT)  # noqa: B010 -- mypy refuses it else
    # As in production, but each receiver would collect the garbage of all tests when it starts.
    app._garbage_collector_tuned = _tuned_at_once
    _share_statements()


def freeze_what_is_imported() -> None:
    """Let no garbage collection look at the modules and the collected tests again."""
    gc.collect()
    gc.freeze()
