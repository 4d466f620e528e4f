"""The scenes: each measures some subjects at one thing, in one run, in turn."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from tests.bench.report import Row
from tests.bench.subjects import Lab


@dataclass(frozen=True, slots=True)
class Profile:
    """How long and how often is measured."""

    rounds: int
    seconds: int
    events: int
    """Events of a load that is counted instead of timed."""
    told_seconds: int
    """How long events are sent whose telling is timed: a percentile wants many."""
    patience: int
    """How many seconds after a load everything should have been told."""

    rows: int
    """Of a database that has grown."""
    stream: int
    """Events over which the receiver's memory is watched."""
    stream_seconds: int
    """When that ends, however few they were."""


FULL = Profile(
    rounds=3,
    seconds=3,
    events=10_000,
    told_seconds=10,
    patience=20,
    rows=1_000_000,
    stream=1_000_000,
    stream_seconds=300,
)
QUICK = Profile(
    rounds=1,
    seconds=1,
    events=500,
    told_seconds=2,
    patience=5,
    rows=5_000,
    stream=3_000,
    stream_seconds=10,
)

Scene = Callable[[Lab, Profile, Sequence[str]], list[Row]]


def scenes() -> Mapping[str, Scene]:
    """Every scene by its name, in the order in which they run."""
    # Imported here, since each of them imports this package.
    from tests.bench.scenes import accept, ack, burst, handled, memory, rows, start, tell  # noqa: PLC0415

    return {
        "accept": accept.measure,
        "ack": ack.measure,
        "handled": handled.measure,
        "burst": burst.measure,
        "tell": tell.measure,
        "rows": rows.measure,
        "memory": memory.measure,
        "start": start.measure,
    }
