"""Cases 4 to 7: the flush before the acknowledgement, and a disk that fails, hangs or is full."""

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
from tests.faults.conftest import MakeScenario
from tests.faults.installation import SupervisedInstallation
from tests.support.processes import leashed
from tests.support.waiting import eventually

_STRACE = shutil.which("strace")
_needs_strace = pytest.mark.skipif(_STRACE is None, reason="strace is not installed")
pytestmark = [pytest.mark.faults, pytest.mark.timeout(120)]


@_needs_strace
def test_the_answer_follows_the_flush(make_scenario: MakeScenario) -> None:
    """Case 4: the system calls are write, flush, answer, so an answer survives a power cut."""
    scenario = make_scenario(parts=("web",))
    with _traced(
        scenario.installation, "-e", "trace=pwrite64,fdatasync,fsync,write,writev,sendto"
    ) as trace:
        scenario.load.send(1)
    calls = trace.read_text("utf-8", "replace").splitlines()
    answer = _last(calls, r"HTTP/1.1 202")
    written = _last(calls[:answer], r"pwrite64\(")
    flushed = _last(calls[:answer], r"f(data)?sync\b.* = 0")
    assert 0 <= written < flushed < answer


@_needs_strace
@pytest.mark.long
def test_a_disk_that_fails_to_flush(make_scenario: MakeScenario) -> None:
    """Case 5: nothing is acknowledged without a flush, and another process takes over."""
    scenario = make_scenario(parts=("web",))
    failing = scenario.installation.process("web")
    with _traced(scenario.installation, "-e", "inject=fdatasync,fsync:error=EIO"):
        (sent,) = scenario.load.send(1)
    assert scenario.load.refused
    assert set(scenario.load.refused) <= {503, 0}
    assert sent.event_id is not None
    assert not failing.is_running()
    assert scenario.installation.starts["web"] > 1


@_needs_strace
@pytest.mark.long
def test_a_disk_that_hangs(make_scenario: MakeScenario) -> None:
    """Case 6: each answer comes before the provider's timeout, and other requests are answered.

    The first flush of the database and that of the spool hang, so the first answer may be 503.
    """
    scenario = make_scenario(parts=("web",))
    with _traced(scenario.installation, "-e", "inject=fdatasync,fsync:delay_enter=8s:when=1"):
        began = time.monotonic()
        (sent,) = scenario.load.send(1)
        took = time.monotonic() - began
        assert scenario.installation.answers()
    assert took < 9 * sent.tries
    assert set(scenario.load.refused) <= {503}


def test_a_disk_that_is_full(small_disk: Path, make_scenario: MakeScenario) -> None:
    """Case 7: a full disk gives 503, health checks work, and the receiver recovers by itself."""
    scenario = make_scenario(parts=("web",), data=small_disk, SPOOL_DIR=str(small_disk / "spool"))
    scenario.load.send(5)
    ballast = small_disk / "ballast"
    _fill(ballast)
    with ThreadPoolExecutor(1) as sender:
        sending = sender.submit(scenario.load.send, 200)
        eventually(lambda: scenario.load.refused.get(503, 0) > 100, within=30)
        assert oracle.stored(scenario.installation)
        assert scenario.installation.answers()
        ballast.unlink()
        sending.result(60)
    acknowledged = {sent.event_id for sent in scenario.load.sent}
    eventually(
        lambda: acknowledged <= oracle.stored(scenario.installation), within=30
    )  # the spool drains last
    assert set(scenario.load.refused) == {503}
    assert scenario.installation.starts["web"] == 1


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 8 MB."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=8m", "none", str(folder)]
    if subprocess.run(mount, check=False, capture_output=True).returncode != 0:
        pytest.skip("mounting a file system is not permitted here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def _fill(ballast: Path) -> None:
    with ballast.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(512))


@contextmanager
def _traced(installation: SupervisedInstallation, *options: str) -> Iterator[Path]:
    """Attach strace to the receiver, with options that may inject faults."""
    assert _STRACE is not None
    process, output = installation.process("web"), installation.folder / "strace.out"
    command = [_STRACE, "-f", "-s", "32", "-o", str(output), "-p", str(process.pid), *options]
    tracer = subprocess.Popen(
        leashed(command), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        eventually(lambda: tracer.poll() is not None or _is_traced(process))
        if tracer.poll() is not None:
            pytest.skip("strace is not permitted to attach to processes here")
        yield output
    finally:
        tracer.send_signal(signal.SIGINT)  # it detaches
        tracer.wait(20)


def _is_traced(process: psutil.Process) -> bool:
    states = [task.read_text() for task in Path(f"/proc/{process.pid}/task").glob("*/status")]
    return all("TracerPid:\t0\n" not in state for state in states)


def _last(lines: list[str], pattern: str) -> int:
    found = [number for number, line in enumerate(lines) if re.search(pattern, line)]
    return found[-1] if found else -1
