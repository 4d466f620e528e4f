"""Tying the life of one process to another's."""

from __future__ import annotations

import ctypes
import os
import signal
import sys

# From <linux/prctl.h>.
_PR_SET_PDEATHSIG = 1
SUPERVISED = "CODECATCH_SUPERVISED"


def die_with_parent() -> None:
    """Under ``codecatch up``, have the kernel kill this process when its parent is gone.

    Killed, not asked: everything here is safe to kill, and a part that lingered would hold the
    port that its successor needs. Does nothing where there is no such kernel feature, or where
    the process was started by something that supervises in its own way.
    """
    if not os.environ.get(SUPERVISED) or not sys.platform.startswith("linux"):
        return
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() == 1:  # the parent was gone before the kernel knew
        os.kill(os.getpid(), signal.SIGKILL)
