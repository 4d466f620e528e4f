"""Load: signed requests that never repeat, and the two programs that send them."""

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
    """What was measured is not what should have been: no number of this run counts."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a load; times in seconds.

    ``sent`` is when each request was written, in their order, as ``time.perf_counter`` says it
    in every process of the machine; only a load with a rate tells it.
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
    """Requests to one path, all of equal length, each with an event id and an order of its own.

    They are numbered from 0; ``written`` is the number of the next.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files = count()
        self.written = 0

    def write(self, size: int) -> tuple[Path, int]:
        """Write so many new requests to a file; it, and the length of each."""
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
    """Send as fast as is answered, at most `most` requests; by wrk where it is installed.

    Raises:
        BrokenBenchmarkError: an answer was no 2xx or did not come, or `most` was too few.
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
    """Send a file's requests by our own generator, `rate` a second if given.

    Raises:
        BrokenBenchmarkError: an answer was no 2xx or did not come, or the file was too short.
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
        raise BrokenBenchmarkError(f"the load never ended, in {seconds + _GRACE:g} s") from None
    finally:
        file.unlink()
    if done.returncode != 0 or not done.stdout.strip():
        raise BrokenBenchmarkError(f"the load ended with {done.returncode}: {done.stderr[-500:]}")
    told = json.loads(done.stdout.splitlines()[-1])
    statuses = told.get("statuses", {})
    refused = {status: n for status, n in statuses.items() if not status.startswith("2")}
    if refused or told.get("refused") or told["unanswered"] or told["exhausted"]:
        raise BrokenBenchmarkError(f"not every request was answered 2xx: {told}")
    if not told["answers"]:
        raise BrokenBenchmarkError("no request was answered")
    numbers = {name: told[name] for name in ("answers", "seconds", "p50", "p99", "longest")}
    return Outcome(**numbers, sent=told.get("sent", ()))
