"""Rows 4 to 7: what an acknowledgement stands on, and a disk that fails, hangs or is full."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest

from tests.faults import oracle
from tests.faults.conftest import Make
from tests.faults.site import Site
from tests.support.processes import leashed
from tests.support.waiting import eventually

_STRACE = shutil.which("strace")
_wants_strace = pytest.mark.skipif(_STRACE is None, reason="strace is not installed")
pytestmark = [pytest.mark.faults, pytest.mark.timeout(120)]


@_wants_strace
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


@_wants_strace
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


@_wants_strace
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


def test_a_disk_that_is_full(small_disk: Path, make_scene: Make) -> None:
    """Row 7: nothing is acknowledged meanwhile, questions are answered, and it heals by itself."""
    scene = make_scene(parts=("web",), data=small_disk, SPOOL_DIR=str(small_disk / "spool"))
    scene.load.send(5)
    ballast = small_disk / "ballast"
    _fill(ballast)
    with ThreadPoolExecutor(1) as sender:
        sending = sender.submit(scene.load.send, 200)
        eventually(lambda: scene.load.refused.get(503, 0) > 100, within=30)
        assert oracle.stored(scene.site)
        assert scene.site.answers()
        ballast.unlink()
        sending.result(60)
    acknowledged = {sent.event_id for sent in scene.load.sent}
    eventually(lambda: acknowledged <= oracle.stored(scene.site), within=30)  # drained, the last
    assert set(scene.load.refused) == {503}
    assert scene.site.starts["web"] == 1


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of eight megabytes."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=8m", "none", str(folder)]
    if subprocess.run(mount, check=False, capture_output=True).returncode != 0:
        pytest.skip("file systems may not be mounted here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def _fill(ballast: Path) -> None:
    with ballast.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(512))


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
