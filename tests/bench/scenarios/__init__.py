"""The scenarios; each takes one kind of measurement of several subjects, in turn."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from tests.bench.report import Measurement
from tests.bench.subjects import Lab


@dataclass(frozen=True, slots=True)
class Profile:
    """The length and the number of measurements."""

    rounds: int
    seconds: int
    events: int
    """Events of a load that is limited by number instead of time."""
    delivery_seconds: int
    """How long events are sent whose delivery is timed: a percentile needs many."""
    patience: int
    """Seconds after a load within which everything must be delivered."""

    rows: int
    """Rows of a large database."""
    stream: int
    """Events over which the growth of the receiver's memory is measured."""
    stream_seconds: int
    """The time limit of that stream."""


FULL = Profile(
    rounds=3,
    seconds=3,
    events=10_000,
    delivery_seconds=10,
    patience=20,
    rows=1_000_000,
    stream=1_000_000,
    stream_seconds=300,
)
QUICK = Profile(
    rounds=1,
    seconds=1,
    events=500,
    delivery_seconds=2,
    patience=5,
    rows=5_000,
    stream=3_000,
    stream_seconds=10,
)

Scenario = Callable[[Lab, Profile, Sequence[str]], list[Measurement]]


def scenarios() -> Mapping[str, Scenario]:
    """Every scenario by name, in the order in which they run."""
    # Imported here, since each of them imports this package.
    from tests.bench.scenarios import (  # noqa: PLC0415
        accept,
        ack,
        burst,
        deliver,
        handled,
        memory,
        rows,
        start,
    )

    return {
        "accept": accept.measure,
        "ack": ack.measure,
        "handled": handled.measure,
        "burst": burst.measure,
        "deliver": deliver.measure,
        "rows": rows.measure,
        "memory": memory.measure,
        "start": start.measure,
    }
