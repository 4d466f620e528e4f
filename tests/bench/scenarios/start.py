"""The start-up time of the command, and of ``codecatch up`` until it is ready."""

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
from tests.bench.report import Measurement, Target
from tests.bench.scenarios import Profile
from tests.bench.starting import environment
from tests.bench.subjects import Lab
from tests.support.ports import free_port
from tests.support.processes import leashed

_VERSION_TARGET = Target(0.3)
_UP_TARGET = Target(3.0)
_ROUNDS = 5
# Longer than the command's own timeout, whose error message says more.
_LONGEST = 90.0
_READY = b"codecatch is ready"


def measure(lab: Lab, profile: Profile, _names: Sequence[str]) -> list[Measurement]:
    """``codecatch version`` and ``codecatch up``, without the first run, which fills the caches.

    A profile of one round measures the first run of ``up``.
    """
    versions = [_version() for _ in range(_ROUNDS + 1)][1:]
    first = 1 if profile.rounds > 1 else 0
    pairs = [_ups(lab.folder) for _ in range(first + profile.rounds)][first:]
    found = {
        "": median(again for _, again in pairs),
        ", a new data directory": median(new for new, _ in pairs),
    }
    return [
        Measurement(
            figure="codecatch version", subject="command", value=median(versions), unit="s",
            target=_VERSION_TARGET,
        ),
        *(
            Measurement(
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
    """Start with a new data directory, then again with the same one."""
    with tempfile.TemporaryDirectory(dir=parent) as folder:
        return _up(Path(folder)), _up(Path(folder))


def _up(folder: Path) -> float:
    """The seconds from the start of ``codecatch up`` until it prints that it is ready."""
    variables = {"CODECATCH_DATA_DIR": str(folder / "var"), "PORT": str(free_port())}
    with tempfile.TemporaryFile() as log:
        began = time.perf_counter()
        process = _start(folder, environment(variables), log)
        with process:
            try:
                ready = _is_announced(process)
                seconds = time.perf_counter() - began
            finally:
                _stop(process)
        if not ready:
            raise BrokenBenchmarkError(f"codecatch up did not become ready: {_last_line(log)}")
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
    """Read its output until it is ready; False if it ends before or takes too long."""
    assert process.stdout is not None
    timeout = threading.Timer(_LONGEST, process.kill)
    timeout.start()
    try:
        return any(line.strip() == _READY for line in process.stdout)
    finally:
        timeout.cancel()


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(_LONGEST)
    except subprocess.TimeoutExpired:
        process.kill()


def _last_line(log: IO[bytes]) -> str:
    log.seek(0)
    lines = log.read().decode(errors="replace").splitlines()
    return lines[-1] if lines else "no output"
