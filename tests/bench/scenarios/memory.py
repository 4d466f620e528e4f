"""The receiver's memory over a burst of events, and over a long stream."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from tests.bench.checks import check_stored, memory, settle
from tests.bench.load import generate
from tests.bench.report import Measurement, Target
from tests.bench.scenarios import Profile
from tests.bench.scenarios.burst import BURST_CONNECTIONS
from tests.bench.scenarios.rates import CONNECTIONS
from tests.bench.subjects import OURS, Lab, Running

_BURST_TARGET = Target(64.0)
_GROWTH_TARGET = Target(5.0)
_LONGEST = 60.0
# Events that are sent together, after their requests were written to a file.
_PART = 20_000
_MIB = 2**20


@dataclass(frozen=True, slots=True)
class _Stream:
    """The number of events in the stream, and the growth of memory in per cent."""

    events: int
    growth: float


def measure(lab: Lab, profile: Profile, names: Sequence[str]) -> list[Measurement]:
    """The memory for each database in turn, with only the receiver running.

    The stream has a time limit; the figure's name says how many events it had.
    """
    rows: list[Measurement] = []
    for name in [name for name in OURS if name in names]:
        with lab.running(name) as subject:
            before = memory(subject)
            _send(subject, profile.events, BURST_CONNECTIONS, _LONGEST)
            burst = memory(subject) - before
            stream = _stream(subject, profile)
        rows += [
            Measurement(
                figure=f"the receiver's memory over a burst of {profile.events:,}", subject=name,
                value=burst / _MIB, unit="MiB", target=_BURST_TARGET,
            ),
            Measurement(
                figure=f"its growth over the next {stream.events:,} events", subject=name,
                value=stream.growth, unit="%", target=_GROWTH_TARGET,
            ),
        ]  # fmt: skip
    return rows


def _stream(subject: Running, profile: Profile) -> _Stream:
    """Send a stream after the burst, which has filled all caches."""
    settle(subject)
    until = time.monotonic() + profile.stream_seconds
    before, sent = memory(subject), 0
    while sent < profile.stream and (left := until - time.monotonic()) > 0:
        sent += _send(subject, min(_PART, profile.stream - sent), CONNECTIONS, left)
    settle(subject)
    return _Stream(sent, (memory(subject) / before - 1) * 100)


def _send(subject: Running, events: int, connections: int, seconds: float) -> int:
    """Send events within a time limit; returns the number of answers."""
    stored = subject.stored()
    file, size = subject.corpus.write(events)
    load = generate(file, size, subject.port, seconds=seconds, connections=connections)
    check_stored(subject, stored, load.answers, 0)
    subject.flush()
    return load.answers
