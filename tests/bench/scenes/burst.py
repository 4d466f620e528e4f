"""Many events at once over 256 connections: acknowledged, handled, none lost; and the memory."""

from __future__ import annotations

from collections.abc import Sequence

import psutil

from tests.bench.checks import check_stored, wait_handled
from tests.bench.load import generate
from tests.bench.report import Row, Target
from tests.bench.scenes import Profile
from tests.bench.subjects import OURS, Lab, Running

_CONNECTIONS = 256
_LONGEST = 60.0
_TARGET = Target(10.0)
_MEMORY_TARGET = Target(64.0)
_MIB = 2**20


def measure(lab: Lab, profile: Profile, names: Sequence[str]) -> list[Row]:
    """Each database in turn; a benchmark that loses an event is broken."""
    rows: list[Row] = []
    for name in [name for name in OURS if name in names]:
        with lab.running(name, everything=True) as subject:
            rows += _once(subject, profile.events)
    return rows


def _once(subject: Running, events: int) -> list[Row]:
    wait_handled(subject, 1, within=30)
    stored, handled = subject.stored(), subject.handled()
    process = psutil.Process(subject.receiver.pid)
    memory = process.memory_info().rss
    file, size = subject.corpus.write(events)
    outcome = generate(file, size, subject.port, seconds=_LONGEST, connections=_CONNECTIONS)
    grown = (process.memory_info().rss - memory) / _MIB
    check_stored(subject, stored, events, 0)
    wait_handled(subject, handled + events, within=2 * _LONGEST)
    return [
        Row(
            figure=f"burst of {events:,} acknowledged within", subject=subject.name,
            value=outcome.seconds, unit="s", target=_TARGET,
        ),
        Row(
            figure=f"the receiver's memory over a burst of {events:,}", subject=subject.name,
            value=grown, unit="MiB", target=_MEMORY_TARGET,
        ),
    ]  # fmt: skip
