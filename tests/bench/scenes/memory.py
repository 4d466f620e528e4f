"""The receiver's memory over a burst of events, and over very many."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from tests.bench.checks import check_stored, memory, settle
from tests.bench.load import generate
from tests.bench.report import Row, Target
from tests.bench.scenes import Profile
from tests.bench.scenes.burst import BURST_CONNECTIONS
from tests.bench.scenes.rates import CONNECTIONS
from tests.bench.subjects import OURS, Lab, Running

_BURST_TARGET = Target(64.0)
_GROWTH_TARGET = Target(5.0)
_LONGEST = 60.0
# So many are sent together: their requests are written to a file first.
_PART = 20_000
_MIB = 2**20


@dataclass(frozen=True, slots=True)
class _Stream:
    """What became of the stream: its events, and the growth in per cent of what was before."""

    events: int
    growth: float


def measure(lab: Lab, profile: Profile, names: Sequence[str]) -> list[Row]:
    """Each database in turn, the receiver alone: nobody else's memory is looked at.

    The stream ends in time, whatever its length by then, and the figure says how long it was.
    """
    rows: list[Row] = []
    for name in [name for name in OURS if name in names]:
        with lab.running(name) as subject:
            before = memory(subject)
            _send(subject, profile.events, BURST_CONNECTIONS, _LONGEST)
            burst = memory(subject) - before
            stream = _stream(subject, profile)
        rows += [
            Row(
                figure=f"the receiver's memory over a burst of {profile.events:,}", subject=name,
                value=burst / _MIB, unit="MiB", target=_BURST_TARGET,
            ),
            Row(
                figure=f"its growth over the next {stream.events:,} events", subject=name,
                value=stream.growth, unit="%", target=_GROWTH_TARGET,
            ),
        ]  # fmt: skip
    return rows


def _stream(subject: Running, profile: Profile) -> _Stream:
    """Send on after the burst, which has warmed up what is kept for good."""
    settle(subject)
    until = time.monotonic() + profile.stream_seconds
    before, sent = memory(subject), 0
    while sent < profile.stream and (left := until - time.monotonic()) > 0:
        sent += _send(subject, min(_PART, profile.stream - sent), CONNECTIONS, left)
    settle(subject)
    return _Stream(sent, (memory(subject) / before - 1) * 100)


def _send(subject: Running, events: int, connections: int, seconds: float) -> int:
    """Send so many, or those that are answered in time; how many those were."""
    stored = subject.stored()
    file, size = subject.corpus.write(events)
    load = generate(file, size, subject.port, seconds=seconds, connections=connections)
    check_stored(subject, stored, load.answers, 0)
    subject.flush()
    return load.answers
