"""Child processes that cannot outlive the tests."""

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import psutil

from tests.support.waiting import eventually

_LAUNCHER = Path(__file__).with_name("launcher.py")


def leashed(
    command: Sequence[str | Path], *, user: str | None = None, death_signal: int = signal.SIGKILL
) -> list[str]:
    """Return the command line that runs `command` so that it dies with this process.

    On Linux even if this process is killed; strictly, with the thread that starts it. Only root
    can name a `user` to run as.
    """
    start = [sys.executable, "-I", "-S", _LAUNCHER, os.getpid(), int(death_signal), user or "-"]
    return [str(part) for part in (*start, *command)]


class ServerEndedError(Exception):
    """A server ended while it was starting; the text is its output."""


class ServerProcess:
    """A server in a leashed child process, whose output is kept for error messages."""

    def __init__(
        self,
        command: Sequence[str | Path],
        *,
        user: str | None = None,
        death_signal: int = signal.SIGKILL,
        cwd: str | Path | None = None,
        env: Mapping[str, str] | None = None,
    ) -> None:
        self._output = tempfile.TemporaryFile()  # noqa: SIM115 -- closed by stop()
        self._popen = subprocess.Popen(
            leashed(command, user=user, death_signal=death_signal),
            stdin=subprocess.DEVNULL,
            stdout=self._output,
            stderr=subprocess.STDOUT,
            cwd=cwd,
            env=env,
            start_new_session=True,  # Ctrl-C is for the tests, which then stop the server
        )

    @property
    def pid(self) -> int:
        """The server's process id."""
        return self._popen.pid

    @property
    def running(self) -> bool:
        """Whether the process is there, frozen or not."""
        return self._popen.poll() is None

    def wait_until(self, answers: Callable[[], bool], *, within: float = 20.0) -> None:
        """Wait for the server to answer; if it ends or stays silent, tell what it has written."""
        try:
            eventually(lambda: not self.running or answers(), within=within)
        except AssertionError as error:
            error.add_note(self.output())
            raise
        if not self.running:
            raise ServerEndedError(self.output())

    def output(self) -> str:
        """Return the last lines that the server has written."""
        if self._output.closed:
            return ""
        size = self._output.seek(0, os.SEEK_END)
        self._output.seek(max(0, size - 4_000))
        text = self._output.read().decode(errors="replace")
        self._output.seek(0, os.SEEK_END)
        return text

    def freeze(self) -> None:
        """Stop the process and its children as SIGSTOP does: connections stay, nobody answers."""
        self._signal_all(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let a frozen server go on."""
        self._signal_all(signal.SIGCONT)

    def stop(self, how: int = signal.SIGTERM, *, within: float = 10.0) -> None:
        """Send the signal `how`, and kill what is still there after `within` seconds.

        A stopped process is left alone, so that this may be called twice.
        """
        if self.running:
            children = self._descendants()
            if how != signal.SIGKILL:
                self.thaw()
            self._popen.send_signal(how)
            try:
                self._popen.wait(within)
            except subprocess.TimeoutExpired:
                self._popen.kill()
            # What it leaves behind ends by itself, unless it is frozen.
            for child in psutil.wait_procs(children, timeout=within)[1]:
                child.kill()
        self._popen.wait(10)
        self._output.close()

    def kill(self) -> None:
        """Kill the process and its children at once, as a crash of the machine would."""
        self._signal_all(signal.SIGKILL)
        self.stop(signal.SIGKILL)

    def _descendants(self) -> list[psutil.Process]:
        try:
            children: list[psutil.Process] = psutil.Process(self.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return []
        return children

    def _signal_all(self, number: int) -> None:
        if not self.running:
            return
        children = self._descendants()
        self._popen.send_signal(number)
        for child in children:
            try:
                child.send_signal(number)
            except psutil.NoSuchProcess:
                continue
