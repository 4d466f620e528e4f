"""How long the command takes to start, and ``codecatch up`` until a webhook would be handled."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import IO

from tests.bench.load import ROOT, BrokenBenchmarkError
from tests.bench.report import Row, Target
from tests.bench.scenes import Profile
from tests.bench.starting import environment
from tests.bench.subjects import Lab
from tests.support.ports import free_port
from tests.support.processes import leashed

_VERSION_TARGET = Target(0.3)
_UP_TARGET = Target(3.0)
_ROUNDS = 5
# Longer than its own patience: it says better what it waits for.
_LONGEST = 90.0
_READY = b"codecatch is ready"


def measure(lab: Lab, profile: Profile, _names: Sequence[str]) -> list[Row]:
    """``codecatch version`` and ``codecatch up``, the first apart, since it fills the caches.

    A single round of ``up`` has no time for that.
    """
    versions = [_version() for _ in range(_ROUNDS + 1)][1:]
    first = 1 if profile.rounds > 1 else 0
    pairs = [_ups(lab.folder) for _ in range(first + profile.rounds)][first:]
    found = {
        "": median(again for _, again in pairs),
        ", a new data directory": median(new for new, _ in pairs),
    }
    return [
        Row(
            figure="codecatch version", subject="command", value=median(versions), unit="s",
            target=_VERSION_TARGET,
        ),
        *(
            Row(
                figure=f"codecatch up to ready{where}", subject="command", value=seconds, unit="s",
                target=_UP_TARGET,
            )
            for where, seconds in found.items()
        ),
    ]  # fmt: skip


def _version() -> float:
    began = time.perf_counter()
    command = leashed([sys.executable, "-m", "worker.cli", "version"])
    try:
        subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=_LONGEST)
    except subprocess.SubprocessError as error:
        raise BrokenBenchmarkError(f"codecatch version: {error}") from None
    return time.perf_counter() - began


def _ups(parent: Path) -> tuple[float, float]:
    """Over a new data directory, and again over the same."""
    with tempfile.TemporaryDirectory(dir=parent) as folder:
        return _up(Path(folder)), _up(Path(folder))


def _up(folder: Path) -> float:
    """Seconds from the start of ``codecatch up`` to its word that it is ready."""
    told = {"CODECATCH_DATA_DIR": str(folder / "var"), "PORT": str(free_port())}
    with tempfile.TemporaryFile() as log:
        began = time.perf_counter()
        process = _start(folder, environment(told), log)
        with process:
            try:
                ready = _is_announced(process)
                seconds = time.perf_counter() - began
            finally:
                _stop(process)
        if not ready:
            raise BrokenBenchmarkError(f"codecatch up never became ready: {_last_line(log)}")
    return seconds


def _start(folder: Path, variables: Mapping[str, str], log: IO[bytes]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        leashed([sys.executable, "-m", "worker.cli", "up"]),
        cwd=folder,
        env=variables,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=log,
        start_new_session=True,
    )


def _is_announced(process: subprocess.Popen[bytes]) -> bool:
    """Read what it says until it is ready; False if it ends before, or takes too long."""
    assert process.stdout is not None
    patience = threading.Timer(_LONGEST, process.kill)
    patience.start()
    try:
        return any(line.strip() == _READY for line in process.stdout)
    finally:
        patience.cancel()


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(_LONGEST)
    except subprocess.TimeoutExpired:
        process.kill()


def _last_line(log: IO[bytes]) -> str:
    log.seek(0)
    lines = log.read().decode(errors="replace").splitlines()
    return lines[-1] if lines else "it wrote nothing"
