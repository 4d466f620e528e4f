"""A burst of events over 256 connections: all must be acknowledged and handled."""

from __future__ import annotations

from collections.abc import Sequence

from tests.bench.checks import check_stored, wait_handled
from tests.bench.load import generate
from tests.bench.report import Measurement, Target
from tests.bench.scenarios import Profile
from tests.bench.subjects import OURS, Lab, Running

BURST_CONNECTIONS = 256
_LONGEST = 60.0
_TARGET = Target(10.0)


def measure(lab: Lab, profile: Profile, names: Sequence[str]) -> list[Measurement]:
    """The time for each database in turn; a lost event makes the benchmark fail."""
    rows: list[Measurement] = []
    for name in [name for name in OURS if name in names]:
        with lab.running(name, everything=True) as subject:
            rows += _once(subject, profile.events)
    return rows


def _once(subject: Running, events: int) -> list[Measurement]:
    wait_handled(subject, 1, within=_LONGEST)
    stored, handled = subject.stored(), subject.handled()
    file, size = subject.corpus.write(events)
    outcome = generate(file, size, subject.port, seconds=_LONGEST, connections=BURST_CONNECTIONS)
    check_stored(subject, stored, events, 0)
    wait_handled(subject, handled + events, within=2 * _LONGEST)
    return [
        Measurement(
            figure=f"burst of {events:,} acknowledged within", subject=subject.name,
            value=outcome.seconds, unit="s", target=_TARGET,
        ),
    ]  # fmt: skip
