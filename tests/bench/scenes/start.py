"""How long the command takes to start."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Sequence
from statistics import median

from tests.bench.load import ROOT
from tests.bench.report import Row, Target
from tests.bench.scenes import Profile
from tests.bench.subjects import Lab
from tests.support.processes import leashed

_TARGET = Target(0.3)
_ROUNDS = 5


def measure(_lab: Lab, _profile: Profile, _names: Sequence[str]) -> list[Row]:
    """``codecatch version``, the first one apart, which fills the caches."""
    times = [_once() for _ in range(_ROUNDS + 1)][1:]
    return [
        Row(
            figure="codecatch version", subject="command", value=median(times), unit="s",
            target=_TARGET,
        )
    ]  # fmt: skip


def _once() -> float:
    command = leashed([sys.executable, "-m", "worker.cli", "version"])
    began = time.perf_counter()
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=30)
    return time.perf_counter() - began
