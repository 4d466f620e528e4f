"""Tying the life of one process to another's."""

from __future__ import annotations

import ctypes
import math
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol

# From <linux/prctl.h>.
_PR_SET_PDEATHSIG = 1
_PR_SET_NAME = 15
# Loaded now: between a fork and an exec there is no time for it.
_LIBC = ctypes.CDLL(None)
SUPERVISED = "CODECATCH_SUPERVISED"
# Names the part that a process is, for its log lines.
PART: Final = "CODECATCH_PART"
_STDOUT, _STDERR = 1, 2
_LOOK_SECONDS = 0.01
_ASKED_TO_STOP: Final = (signal.SIGTERM, signal.SIGINT)


class Process(Protocol):
    """What a supervisor does with a process; :class:`subprocess.Popen` has it."""

    def poll(self) -> int | None:
        """Its exit code once it has ended, negative for the signal that ended it."""

    def terminate(self) -> None:
        """Ask it to stop."""

    def kill(self) -> None:
        """Stop it."""

    def wait(self, timeout: float | None = None) -> int:
        """Its exit code; raises :class:`subprocess.TimeoutExpired`."""


def die_with_parent() -> None:
    """Under ``codecatch up``, have the kernel kill this process when its parent is gone.

    Killed, not asked: everything here is safe to kill, and a part that lingered would hold the
    port that its successor needs. Does nothing where there is no such kernel feature, or where
    the process was started by something that supervises in its own way.
    """
    if not os.environ.get(SUPERVISED) or not sys.platform.startswith("linux"):
        return
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    # A parent that was gone before the kernel knew; in a container, process 1 may supervise us.
    if os.getppid() == 1 and os.environ[SUPERVISED] != "1":
        os.kill(os.getpid(), signal.SIGKILL)


def start(command: Sequence[str], **options: Any) -> subprocess.Popen[bytes]:
    """Start a process in a group of its own, so that a Ctrl-C reaches only its supervisor.

    On Linux it is killed when this process is gone, whatever the command is.
    """
    if sys.platform.startswith("linux"):
        options["preexec_fn"] = die_with_parent
    return subprocess.Popen(command, process_group=0, **options)  # noqa: S603 - our own words


def can_fork() -> bool:
    """Whether this process may be forked without an exec, so that both go on.

    What other threads hold would be held for ever; and elsewhere than on Linux, the system's own
    libraries have such threads.
    """
    return sys.platform.startswith("linux") and threading.active_count() == 1


def fork(run: Callable[[], object], name: str) -> Process:
    """Start ``run`` in a process that has everything imported that this one has.

    It has a group of its own, and is killed when this process is gone; what it prints goes to
    standard error. Only where :func:`can_fork`, and while no connection is open.
    """
    return _Fork(run, name)


class _Fork:
    def __init__(self, run: Callable[[], object], name: str) -> None:
        context = multiprocessing.get_context("fork")
        self._process = context.Process(target=_go_on, args=(run, name), name=name)
        # A signal that comes before the child has handlers of its own waits for them.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _ASKED_TO_STOP)
        try:
            self._process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def poll(self) -> int | None:
        return self._process.exitcode

    def terminate(self) -> None:
        self._process.terminate()

    def kill(self) -> None:
        self._process.kill()

    def wait(self, timeout: float | None = None) -> int:
        until = math.inf if timeout is None else time.monotonic() + timeout
        # Not by join(), which takes who has closed everything that it was born with for ended.
        while (code := self.poll()) is None:
            if time.monotonic() >= until:
                raise subprocess.TimeoutExpired(self._process.name, timeout or 0)
            time.sleep(_LOOK_SECONDS)
        return code


def _go_on(run: Callable[[], object], name: str) -> None:
    """Be what an exec would have made of this process, and then do the work."""
    os.setpgid(0, 0)
    _LIBC.prctl(_PR_SET_NAME, name.encode())
    os.dup2(_STDERR, _STDOUT)
    os.closerange(_STDERR + 1, os.sysconf("SC_OPEN_MAX"))
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _ASKED_TO_STOP)
    die_with_parent()
    run()
