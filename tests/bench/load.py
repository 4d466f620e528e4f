"""Load generation: unique signed requests, and the two programs that send them."""

from __future__ import annotations

import hashlib
import hmac
import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from tests.support import webhooks
from tests.support.processes import leashed

ROOT = Path(__file__).parents[2]
WRK = shutil.which("wrk")
_SCRIPT = Path(__file__).with_name("wrk.lua")
_GRACE = 30.0


class BrokenBenchmarkError(Exception):
    """The run did not do what it should measure, so its numbers are invalid."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of a load; times are in seconds.

    ``sent`` has the time at which each request was written, in order, by ``time.perf_counter``,
    which is the same in every process of the machine. Only a load with a rate has it.
    """

    answers: int
    seconds: float
    p50: float
    p99: float
    longest: float
    sent: Sequence[float] = ()

    @property
    def rate(self) -> float:
        """Answers a second."""
        return self.answers / self.seconds


class Corpus:
    """Requests to one path, all of equal length, each with its own event id and order.

    They are numbered from 0; ``written`` is the number of the next one.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files = count()
        self.written = 0

    def write(self, size: int) -> tuple[Path, int]:
        """Write ``size`` new requests to a file; returns the file and the length of a request."""
        path = self._folder / f"requests-{next(self._files)}"
        first, self.written = self.written, self.written + size
        records = [self._record(number) for number in range(first, self.written)]
        path.write_bytes(b"".join(records))
        return path, len(records[0])

    def _record(self, number: int) -> bytes:
        body = _BODY.replace(_EVENT, b"evt_%026d" % number)
        body = body.replace(_ORDER, b"order-%010d" % number)
        body = body.replace(_CODE, b"%06d" % (number % 1_000_000))
        digest = hmac.digest(webhooks.SECRET.encode(), body, hashlib.sha256).hex()
        return _HEAD % (digest.encode(), len(body)) + body


_EVENT, _ORDER, _CODE = b"evt_" + b"E" * 26, b"O" * 16, b"CCCCCC"
_BODY = webhooks.virtualsms_v1(
    event_id=_EVENT.decode(), order=_ORDER.decode(), code=_CODE.decode()
).body
_HEAD = (
    b"POST /webhooks/virtualsms HTTP/1.1\r\nHost: 127.0.0.1\r\n"
    b"Content-Type: application/json\r\nX-VirtualSMS-Signature: sha256=%s\r\n"
    b"Content-Length: %d\r\n\r\n"
)


def saturate(corpus: Corpus, port: int, *, seconds: float, most: int, connections: int) -> Outcome:
    """Send as fast as the subject answers, at most `most` requests; with wrk if installed.

    Raises:
        BrokenBenchmarkError: an answer was not a 2xx or is missing, or `most` was too few.
    """
    file, size = corpus.write(most)
    if WRK is None:
        return generate(file, size, port, seconds=seconds, connections=connections)
    command = [WRK, "-t1", f"-c{connections}", f"-d{round(seconds)}s", "--timeout", "10s"]
    command += ["-s", str(_SCRIPT), f"http://127.0.0.1:{port}/", "--", str(file), str(size)]
    return _run(command, file, seconds)


def generate(
    file: Path, size: int, port: int, *, seconds: float, connections: int, rate: float = 0.0
) -> Outcome:
    """Send a file's requests with our own generator, at `rate` a second if given.

    Raises:
        BrokenBenchmarkError: an answer was not a 2xx or is missing, or the file was too short.
    """
    command = [sys.executable, "-m", "tests.bench.programs.generator", str(file), str(size)]
    command += [f"--port={port}", f"--connections={connections}", f"--seconds={seconds}"]
    return _run([*command, f"--rate={rate}"], file, seconds)


def _run(command: list[str], file: Path, seconds: float) -> Outcome:
    try:
        done = subprocess.run(
            leashed(command),
            cwd=ROOT,
            check=False,
            capture_output=True,
            text=True,
            timeout=seconds + _GRACE,
        )
    except subprocess.TimeoutExpired:
        raise BrokenBenchmarkError(f"the load did not end within {seconds + _GRACE:g} s") from None
    finally:
        file.unlink()
    if done.returncode != 0 or not done.stdout.strip():
        raise BrokenBenchmarkError(
            f"the load generator exited with {done.returncode}: {done.stderr[-500:]}"
        )
    result = json.loads(done.stdout.splitlines()[-1])
    statuses = result.get("statuses", {})
    refused = {status: n for status, n in statuses.items() if not status.startswith("2")}
    if refused or result.get("refused") or result["unanswered"] or result["exhausted"]:
        raise BrokenBenchmarkError(f"not every answer is a 2xx: {result}")
    if not result["answers"]:
        raise BrokenBenchmarkError("no request was answered")
    numbers = {name: result[name] for name in ("answers", "seconds", "p50", "p99", "longest")}
    return Outcome(**numbers, sent=result.get("sent", ()))
