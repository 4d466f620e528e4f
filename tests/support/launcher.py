"""Replaces itself with a server that dies with the process that started it.

It runs in a separate interpreter (`python -I -S launcher.py PARENT SIGNAL USER COMMAND…`)
rather than between fork and exec, where Python code is unsafe if there are threads.
"""

import ctypes
import os
import pwd
import signal
import sys

PR_SET_PDEATHSIG = 1
EXIT_PARENT_GONE = 75


def main(parent: int, death_signal: int, user: str, command: list[str]) -> None:
    """Execute `command`, as `user` unless that is "-"; it gets `death_signal` if `parent` dies.

    The death signal exists on Linux only; elsewhere the rest is done.
    """
    libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # Python ignores it, and exec would pass that on
    if user != "-":
        entry = pwd.getpwnam(user)
        os.setgroups([])
        os.setgid(entry.pw_gid)
        os.setuid(entry.pw_uid)
    if libc is not None:  # after setuid, which would clear it
        if libc.prctl(PR_SET_PDEATHSIG, death_signal, 0, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
        if os.getppid() != parent:  # it died before prctl
            sys.exit(EXIT_PARENT_GONE)
    os.execv(command[0], command)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4:])
