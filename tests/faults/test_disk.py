"""Rows 4 to 6: what an acknowledgement stands on, and a disk that fails or hangs."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from tests.faults.conftest import Make
from tests.faults.site import Site
from tests.support.processes import leashed
from tests.support.waiting import eventually

_STRACE = shutil.which("strace")
pytestmark = [
    pytest.mark.faults,
    pytest.mark.timeout(120),
    pytest.mark.skipif(_STRACE is None, reason="strace is not installed"),
]


def test_the_answer_follows_the_flush(make_scene: Make) -> None:
    """Row 4: the system calls' order is write, flush, answer, so that the power may fail after."""
    scene = make_scene(parts=("web",))
    with _traced(scene.site, "-e", "trace=pwrite64,fdatasync,fsync,write,writev,sendto") as trace:
        scene.load.send(1)
    calls = trace.read_text("utf-8", "replace").splitlines()
    answer = _last(calls, r"HTTP/1.1 202")
    written = _last(calls[:answer], r"pwrite64\(")
    flushed = _last(calls[:answer], r"f(data)?sync\b.* = 0")
    assert 0 <= written < flushed < answer


@pytest.mark.long
def test_a_disk_that_fails_to_flush(make_scene: Make) -> None:
    """Row 5: nothing is acknowledged that may not be there, and another process takes over."""
    scene = make_scene(parts=("web",))
    failing = scene.site.process("web")
    with _traced(scene.site, "-e", "inject=fdatasync,fsync:error=EIO"):
        (sent,) = scene.load.send(1)
    assert scene.load.refused
    assert set(scene.load.refused) <= {503, 0}
    assert sent.event_id is not None
    assert not failing.is_running()
    assert scene.site.starts["web"] > 1


@pytest.mark.long
def test_a_disk_that_hangs(make_scene: Make) -> None:
    """Row 6: the sender is answered before it gives up, and other questions meanwhile."""
    scene = make_scene(parts=("web",))
    with _traced(scene.site, "-e", "inject=fdatasync,fsync:delay_enter=8s:when=1"):
        began = time.monotonic()
        scene.load.send(1)
        took = time.monotonic() - began
        assert scene.site.answers()
    assert took < 9


@contextmanager
def _traced(site: Site, *options: str) -> Iterator[Path]:
    """Have strace look at the receiver, and change what it sees as the options say."""
    assert _STRACE is not None
    process, output = site.process("web"), site.folder / "strace.out"
    command = [_STRACE, "-f", "-s", "32", "-o", str(output), "-p", str(process.pid), *options]
    tracer = subprocess.Popen(
        leashed(command), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        eventually(lambda: tracer.poll() is not None or _is_traced(process))
        if tracer.poll() is not None:
            pytest.skip("strace may not attach to processes here")
        yield output
    finally:
        tracer.send_signal(signal.SIGINT)  # it lets go of what it traces
        tracer.wait(20)


def _is_traced(process: psutil.Process) -> bool:
    states = [task.read_text() for task in Path(f"/proc/{process.pid}/task").glob("*/status")]
    return all("TracerPid:\t0\n" not in state for state in states)


def _last(lines: list[str], pattern: str) -> int:
    found = [number for number, line in enumerate(lines) if re.search(pattern, line)]
    return found[-1] if found else -1
