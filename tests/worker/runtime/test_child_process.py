"""Forked processes: what they inherit from their parent, and what they do not."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux can fork safely")


def run(tmp_path: Path, source: str) -> subprocess.CompletedProcess[str]:
    """Run a program in a new process: this one has threads, so it cannot fork."""
    program = tmp_path / "program.py"
    imports = "import os, signal, sys, time\nfrom worker.runtime import child_process\n"
    program.write_text(imports + textwrap.dedent(source))
    root = Path(__file__).parents[3]
    return subprocess.run(
        [sys.executable, program], capture_output=True, text=True, timeout=60, check=True,
        env={"PYTHONPATH": str(root), "CODECATCH_SUPERVISED": "2"},
    )  # fmt: skip


def test_a_process_with_threads_cannot_fork(tmp_path: Path) -> None:
    """Locks that they hold would never be released in the child."""
    done = run(
        tmp_path,
        """
        import threading
        print(child_process.can_fork())
        done = threading.Event()
        threading.Thread(target=done.wait).start()
        print(child_process.can_fork())
        done.set()
        """,
    )
    assert done.stdout.split() == ["True", "False"]


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ("pass", 0),
        ("sys.exit(3)", 3),
        ("raise ValueError", 1),
        ("os.kill(os.getpid(), signal.SIGKILL)", -9),
        ("os.kill(os.getpid(), signal.SIGTERM)", -15),
    ],
)
def test_the_exit_code_is_reported(tmp_path: Path, body: str, code: int) -> None:
    """As subprocess reports it; and the child does not run the parent's remaining code."""
    done = run(
        tmp_path,
        f"""
        def work():
            {body}
        try:
            print(child_process.fork(work, "part").wait(10))
        finally:
            print("once")
        """,
    )
    assert done.stdout.split() == [str(code), "once"]


def test_a_child_inherits_only_the_imported_modules(tmp_path: Path) -> None:
    """It has its own group, no open files, no signal handlers, and prints to standard error."""
    done = run(
        tmp_path,
        """
        stop = lambda *_: print("the parent's")
        signal.signal(signal.SIGTERM, stop)
        lock = open(__file__)
        def work():
            print("group", os.getpgid(0) == os.getpid())
            print("files", sorted(map(int, os.listdir("/proc/self/fd")))[:-1])
            print("handled", signal.getsignal(signal.SIGTERM) is stop)
            print("blocked", signal.pthread_sigmask(signal.SIG_BLOCK, ()))
        child = child_process.fork(work, "part")
        assert child.wait(10) == 0
        assert signal.getsignal(signal.SIGTERM) is stop
        assert not signal.pthread_sigmask(signal.SIG_BLOCK, ())
        """,
    )
    assert done.stdout == ""
    assert done.stderr.splitlines() == [
        "group True", "files [0, 1, 2]", "handled False", "blocked set()",
    ]  # fmt: skip


def test_waiting_for_a_child_times_out(tmp_path: Path) -> None:
    """SIGTERM, a wait, SIGKILL: what a supervisor does."""
    done = run(
        tmp_path,
        """
        import subprocess
        def work():
            signal.signal(signal.SIGTERM, lambda *_: os.write(2, b"asked"))
            os.write(2, b"ready")
            while True:
                time.sleep(60)
        read, write = os.pipe()
        os.dup2(write, 2)
        child = child_process.fork(work, "part")
        assert os.read(read, 5) == b"ready"
        child.terminate()
        assert os.read(read, 5) == b"asked"
        try:
            child.wait(0.1)
        except subprocess.TimeoutExpired:
            print("late", child.poll())
        child.kill()
        print(child.wait(10), child.poll())
        """,
    )
    assert done.stdout.split() == ["late", "None", "-9", "-9"]


def test_a_child_is_killed_when_its_parent_is_gone(tmp_path: Path) -> None:
    """Even by SIGKILL of the parent: the pipe that only the child held open is closed."""
    done = run(
        tmp_path,
        """
        read, write = os.pipe()
        def work():
            os.write(2, b"there")
            time.sleep(600)
        if os.fork() == 0:
            os.dup2(write, 2)
            child_process.fork(work, "part")
            assert os.read(read, 5) == b"there"
            os.kill(os.getpid(), signal.SIGKILL)
        os.close(write)
        os.wait()
        print("left" if os.read(read, 9) else "gone")
        """,
    )
    assert done.stdout == "gone\n"
