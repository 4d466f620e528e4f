"""How processes are started, waited for and ended."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from tests.bench.load import ROOT, BrokenBenchmarkError
from tests.support.processes import ServerEndedError, ServerProcess

# A developer's own settings must not change what is measured.
_KEPT = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "LD_LIBRARY_PATH", "VIRTUAL_ENV")
_STOP_SECONDS = 20.0
_MOST_TOLD = 500


def environment(variables: Mapping[str, str]) -> dict[str, str]:
    """What a process is told: ``variables``, and of our own only what every process needs."""
    kept = {name: os.environ[name] for name in _KEPT if name in os.environ}
    return {**kept, "PYTHONPATH": str(ROOT), **variables}


@contextmanager
def becoming_ready(name: str) -> Iterator[None]:
    """Wait within for what was started.

    Raises:
        BrokenBenchmarkError: it ended, or stayed silent; with the last line that it wrote.
    """
    try:
        yield
    except (AssertionError, ServerEndedError) as error:
        lines = [line for line in _told(error).splitlines() if line.strip()]
        last = lines[-1].strip()[-_MOST_TOLD:] if lines else "it wrote nothing"
        raise BrokenBenchmarkError(f"{name} never became ready: {last}") from None


@contextmanager
def stopping(process: ServerProcess) -> Iterator[ServerProcess]:
    """Stop it afterwards."""
    try:
        yield process
    finally:
        process.stop(within=_STOP_SECONDS)


def listens(port: int) -> bool:
    """Whether somebody takes connections there.

    Raises:
        OSError: nobody does.
    """
    with socket.create_connection(("127.0.0.1", port), timeout=1):
        return True


def _told(error: Exception) -> str:
    return "\n".join([*getattr(error, "__notes__", []), str(error)])
