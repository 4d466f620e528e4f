"""Shortens the pauses with which uvicorn looks whether it should stop: 0.2 s for each server."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import uvicorn.server

_PAUSE_SECONDS = 0.005


class _Asyncio(SimpleNamespace):
    def __getattr__(self, name: str) -> Any:
        return getattr(asyncio, name)


async def _sleep(seconds: float) -> None:
    await asyncio.sleep(min(seconds, _PAUSE_SECONDS))


def poll_often() -> None:
    """Let the servers in this process poll often; all they sleep for is a condition."""
    setattr(uvicorn.server, "asyncio", _Asyncio(sleep=_sleep))  # noqa: B010 -- mypy refuses it else
