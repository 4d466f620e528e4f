"""Starting processes, waiting for them, and stopping them."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from tests.bench.load import ROOT, BrokenBenchmarkError
from tests.support.processes import ServerEndedError, ServerProcess

# All other variables are dropped: a developer's settings must not change the measurements.
_INHERITED = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "LD_LIBRARY_PATH", "VIRTUAL_ENV")
_STOP_SECONDS = 20.0
_MAX_SHOWN = 500


def environment(variables: Mapping[str, str]) -> dict[str, str]:
    """The environment of a process: ``variables``, and the few inherited ones that it needs."""
    inherited = {name: os.environ[name] for name in _INHERITED if name in os.environ}
    return {**inherited, "PYTHONPATH": str(ROOT), **variables}


@contextmanager
def becoming_ready(name: str) -> Iterator[None]:
    """Convert a failed wait in the block into a BrokenBenchmarkError with the last output line."""
    try:
        yield
    except (AssertionError, ServerEndedError) as error:
        lines = [line for line in _output(error).splitlines() if line.strip()]
        last = lines[-1].strip()[-_MAX_SHOWN:] if lines else "no output"
        raise BrokenBenchmarkError(f"{name} did not become ready: {last}") from None


@contextmanager
def stopping(process: ServerProcess) -> Iterator[ServerProcess]:
    """Stop the process at the end of the block."""
    try:
        yield process
    finally:
        process.stop(within=_STOP_SECONDS)


def listens(port: int) -> bool:
    """Return True if the port accepts connections.

    Raises:
        OSError: it does not.
    """
    with socket.create_connection(("127.0.0.1", port), timeout=1):
        return True


def _output(error: Exception) -> str:
    return "\n".join([*getattr(error, "__notes__", []), str(error)])
