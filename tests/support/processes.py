"""Child processes that cannot outlive the tests."""

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Self

import psutil

from tests.support.ports import free_port
from tests.support.waiting import eventually

_LAUNCHER = Path(__file__).with_name("launcher.py")
_STARTS = 5


def leashed(
    command: Sequence[str | Path], *, user: str | None = None, death_signal: int = signal.SIGKILL
) -> list[str]:
    """Return a command line that runs `command` so that it dies with this process.

    On Linux this works even if this process is killed; strictly, the command dies with the thread
    that starts it. Only root can set the `user` to run as.
    """
    start = [sys.executable, "-I", "-S", _LAUNCHER, os.getpid(), int(death_signal), user or "-"]
    return [str(part) for part in (*start, *command)]


class ServerEndedError(Exception):
    """A server ended while it was starting; the text is its output."""


class ServerProcess:
    """A server in a leashed child process; its output is recorded for error messages."""

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
            start_new_session=True,  # Ctrl-C reaches only the tests, which then stop the server
        )

    @property
    def pid(self) -> int:
        """The server's process id."""
        return self._popen.pid

    @property
    def running(self) -> bool:
        """Whether the process exists, frozen or not."""
        return self._popen.poll() is None

    def wait_until(self, answers: Callable[[], bool], *, within: float = 20.0) -> None:
        """Wait until the server answers; an error has the server's output."""
        try:
            eventually(lambda: not self.running or answers(), within=within)
        except AssertionError as error:
            error.add_note(self.output())
            raise
        if not self.running:
            raise ServerEndedError(self.output())

    def output(self) -> str:
        """Return the last lines of the server's output."""
        if self._output.closed:
            return ""
        size = self._output.seek(0, os.SEEK_END)
        self._output.seek(max(0, size - 4_000))
        text = self._output.read().decode(errors="replace")
        self._output.seek(0, os.SEEK_END)
        return text

    def freeze(self) -> None:
        """Send SIGSTOP to the process and its children: connections stay open, nothing answers."""
        self._signal_all(signal.SIGSTOP)

    def thaw(self) -> None:
        """Continue a frozen server."""
        self._signal_all(signal.SIGCONT)

    def stop(self, how: int = signal.SIGTERM, *, within: float = 10.0) -> None:
        """Send the signal `how`, and kill the process if it still runs after `within` seconds.

        It may be called twice: an ended process gets no signal.
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
            # Its children end by themselves, unless they are frozen.
            for child in psutil.wait_procs(children, timeout=within)[1]:
                child.kill()
        self._popen.wait(10)
        self._output.close()

    def kill(self) -> None:
        """Kill the process and its children at once, as in a crash of the machine."""
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


def stop_all(processes: Sequence[ServerProcess], *, within: float = 10.0) -> None:
    """Stop processes at the same time, as a service manager does."""
    if processes:
        with ThreadPoolExecutor(len(processes)) as pool:
            list(pool.map(lambda process: process.stop(within=within), processes))


class Server:
    """A server on 127.0.0.1 that a test may stop, kill, freeze and start again on its port."""

    _stopping_signal: int = signal.SIGTERM

    def __init__(self) -> None:
        self.port = free_port()
        self._has_started = False
        self._process: ServerProcess | None = None

    @property
    def process(self) -> ServerProcess:
        """Its process; it must have been started."""
        assert self._process is not None, "start it first"
        return self._process

    @property
    def running(self) -> bool:
        """Whether the process exists, frozen or not."""
        return self._process is not None and self._process.running

    def start(self) -> Self:
        """Start it and wait until it answers."""
        assert not self.running, "it is running already"
        for attempt in range(1, _STARTS + 1):
            self._process = self._launch()
            try:
                self._process.wait_until(self._answers)
            except (AssertionError, ServerEndedError):
                self._process.kill()
                # Another process may have taken the free port.
                if self._has_started or attempt == _STARTS:
                    raise
                self.port = free_port()
            else:
                self._has_started = True
                break
        return self

    def stop(self) -> None:
        """Shut it down gracefully: its clients see their connections closed."""
        if self._process is not None:
            self._process.stop(self._stopping_signal)

    def kill(self) -> None:
        """Kill it with SIGKILL."""
        if self._process is not None:
            self._process.kill()

    def restart(self) -> None:
        """Stop it and start it again on the same port."""
        self.stop()
        self.start()

    def freeze(self) -> None:
        """Make it hang: connections are accepted by the kernel, nothing is answered."""
        self.process.freeze()

    def thaw(self) -> None:
        """Resume it after `freeze`."""
        self.process.thaw()

    def close(self) -> None:
        """Stop it for good."""
        self.stop()

    def __enter__(self) -> Self:
        return self if self.running else self.start()

    def __exit__(self, *_: object) -> None:
        self.close()

    def _launch(self) -> ServerProcess:
        raise NotImplementedError

    def _answers(self) -> bool:
        raise NotImplementedError
