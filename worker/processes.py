"""Tying the life of one process to another's."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

# From <linux/prctl.h>.
_PR_SET_PDEATHSIG = 1
# Loaded now: between a fork and an exec there is no time for it.
_LIBC = ctypes.CDLL(None)
SUPERVISED = "CODECATCH_SUPERVISED"


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
