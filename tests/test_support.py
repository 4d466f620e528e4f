"""What the tests rely on and would not miss: tools whose failure only hides other failures."""

import json
import os
import re
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from unittest import mock

import psutil
import pytest

from tests.support import webhooks
from tests.support.http_server import HttpServer, Reply, Request
from tests.support.processes import ServerProcess, leashed
from tests.support.waiting import eventually


def test_a_condition_that_stays_false_fails() -> None:
    """With the last value or exception of the check; otherwise no test that waits could fail."""
    with pytest.raises(AssertionError, match=r"within 0\.01 s .* the last returned \[\]"):
        eventually(list, within=0.01, every=0.001)
    with pytest.raises(AssertionError, match=r"the last raised ValueError"):
        eventually(lambda: int(""), within=0.01, every=0.001)


def test_a_handlers_error_reaches_the_test() -> None:
    """Its client gets 500, which may look like the tested case, and closing the server raises."""

    def handler(request: Request) -> Reply:
        return Reply(json=request.json())

    server = HttpServer()
    server.on("POST", "/", handler=handler)
    with pytest.raises(urllib.error.HTTPError, match="500"):
        urllib.request.urlopen(server.url, b"{", timeout=5)
    with pytest.raises(json.JSONDecodeError):
        server.close()


@pytest.fixture(scope="module")
def _developers_variables() -> Iterator[None]:
    """Set variables before the fixtures of a single test, as a developer's shell does."""
    with mock.patch.dict(os.environ, {"DATABASE_URL": "developer", "HOST": "developer"}):
        yield


@pytest.mark.usefixtures("_developers_variables")
def test_a_developers_variables_are_removed() -> None:
    """A developer's own values must not change a test."""
    assert not {"DATABASE_URL", "HOST"} & set(os.environ)


def test_stopping_kills_what_ignores_the_signal() -> None:
    """A server that hangs at its end must not stay behind."""
    program = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
        "print('deaf', flush=True); time.sleep(60)"
    )
    process = ServerProcess([sys.executable, "-c", program])
    process.wait_until(lambda: "deaf" in process.output())
    process.stop(within=0.1)
    assert not process.running


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux signals a parent's death")
def test_a_server_dies_with_killed_tests() -> None:
    """Nobody notices the servers that a killed test run leaves behind."""
    program = (
        f"import os, subprocess, sys; command = {leashed(['/bin/sleep', '60'])!r};"
        "command[4] = str(os.getpid()); print(subprocess.Popen(command).pid, flush=True);"
        "sys.stdin.read()"
    )
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", program], text=True, **pipes) as parent:  # type: ignore[call-overload]
        grandchild = psutil.Process(int(parent.stdout.readline()))
        eventually(lambda: grandchild.name() == "sleep")
        parent.kill()
        eventually(lambda: not psutil.pid_exists(grandchild.pid) or grandchild.status() == "zombie")


@pytest.mark.parametrize("provider", ["virtualsms", "daisysim"])
def test_samples_have_fictional_numbers(provider: str) -> None:
    """No sample contains the number of a person."""
    paths = webhooks.samples(provider)
    assert paths
    for path in paths:
        for phone in re.findall(rb'"(\+\d+)"', path.read_bytes()):
            assert re.fullmatch(rb"\+447700900\d{3}|\+120255501\d\d", phone), (path, phone)
