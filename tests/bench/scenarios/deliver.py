"""The latency from a webhook's request to the request to Slack, for which a sink stands in."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass
from statistics import median

from tests.bench.checks import wait_handled
from tests.bench.load import BrokenBenchmarkError, generate
from tests.bench.report import Measurement, Target
from tests.bench.scenarios import Profile
from tests.bench.scenarios.rates import CONNECTIONS
from tests.bench.subjects import OURS, USUAL, Lab, Running, slack

# One second at this rate fills the caches; a subject that does not deliver these events within the
# time limit is broken, not slow.
_WARM_UP_RATE = 50
_LONGEST = 60
_POLL_SECONDS = 0.2
_MILLI = 1000


@dataclass(frozen=True, slots=True)
class _Pace:
    """A rate, whether a message may have several codes, and the targets."""

    rate: int
    coalesce: bool
    p50: float | None
    """The target for the ratio of the median to that of the usual way."""
    longest: float | None = None
    """The target for the 99th percentile in milliseconds."""


@dataclass(frozen=True, slots=True)
class _Round:
    """One round: percentiles in ms, and seconds from the last request to the last delivery.

    An undelivered event counts as delivered at the timeout: its real latency is longer.
    """

    p50: float
    p99: float
    late: float
    undelivered: int


_PACES = (_Pace(50, coalesce=True, p50=1.2), _Pace(300, coalesce=False, p50=None, longest=1000.0))
_P99 = 1.0  # the target for the ratio to the usual way


def measure(lab: Lab, profile: Profile, names: Sequence[str]) -> list[Measurement]:
    """Percentiles of each subject at each rate, and undelivered events; nothing is confirmed.

    The destination's rate limit is above the load: with Slack's own limit of one message a second,
    only that limit would be measured.
    """
    names = [name for name in (USUAL, *OURS) if name in names]
    rows: list[Measurement] = []
    for pace in _PACES:
        found: dict[str, list[_Round]] = {name: [] for name in names}
        for _ in range(profile.rounds):
            for name in names:  # one at a time: the sweeps of an idle one would slow the others
                configuration = slack(coalesce=pace.coalesce)
                with lab.running(name, everything=True, configuration=configuration) as subject:
                    found[name].append(_once(lab, subject, pace.rate, profile))
        rows += _rows(pace, found, profile.patience)
    return rows


def _rows(pace: _Pace, found: dict[str, list[_Round]], patience: int) -> Iterator[Measurement]:
    figure = f"POST to Slack request at {pace.rate} events/s"
    for name, rounds in found.items():
        ours, usual = name in OURS, found.get(USUAL) if name in OURS else None
        for percentile, bound in (("p50", pace.p50), ("p99", _P99)):
            value, reference = (
                None if many is None else median(getattr(each, percentile) for each in many)
                for many in (rounds, usual)
            )
            assert value is not None
            yield Measurement(
                figure=f"{figure}, {percentile}", subject=name, value=value, unit="ms",
                reference=None if reference is None else USUAL,
                ratio=None if reference is None else value / reference,
                target=None if reference is None or bound is None else Target(bound),
            )  # fmt: skip
        if ours and pace.longest is not None:
            yield Measurement(
                figure=f"{figure}, p99", subject=name, value=median(each.p99 for each in rounds),
                unit="ms", target=Target(pace.longest),
            )  # fmt: skip
        yield Measurement(
            figure=f"{figure}, last delivery after", subject=name,
            value=median(each.late for each in rounds), unit="s",
        )  # fmt: skip
        yield Measurement(
            figure=f"{figure}, undelivered {patience} s after the last", subject=name,
            value=max(each.undelivered for each in rounds), unit="events",
            target=Target(0) if ours else None,
        )  # fmt: skip


def _once(lab: Lab, subject: Running, rate: int, profile: Profile) -> _Round:
    wait_handled(subject, 1, within=_LONGEST)
    warm = _load(lab, subject, _WARM_UP_RATE, 1, _LONGEST)
    if warm.undelivered:
        raise BrokenBenchmarkError(
            f"{subject.name}: {warm.undelivered} events undelivered after {_LONGEST} s"
        )
    return _load(lab, subject, rate, profile.delivery_seconds, profile.patience)


def _load(lab: Lab, subject: Running, rate: int, seconds: int, patience: int) -> _Round:
    first = subject.corpus.written
    file, size = subject.corpus.write(rate * seconds + 100)
    load = generate(file, size, subject.port, seconds=seconds, connections=CONNECTIONS, rate=rate)
    sent = dict(enumerate(load.sent, start=first))
    last = max(sent.values())
    first_seen = _wait_for_deliveries(lab, sent.keys(), until=last + patience)
    latencies = sorted(first_seen.get(order, last + patience) - at for order, at in sent.items())
    return _Round(
        p50=latencies[len(latencies) // 2] * _MILLI,
        p99=latencies[len(latencies) * 99 // 100] * _MILLI,
        late=(max(first_seen.values()) if len(first_seen) == len(sent) else last + patience) - last,
        undelivered=len(sent) - len(first_seen),
    )


def _wait_for_deliveries(lab: Lab, orders: Set[int], *, until: float) -> dict[int, float]:
    """The time of each order's first delivery; undelivered ones are missing."""
    first_seen: dict[int, float] = {}
    while len(first_seen) < len(orders) and time.perf_counter() < until:
        time.sleep(_POLL_SECONDS)
        first_seen = {
            **{order: at for order, at in lab.delivered().items() if order in orders},
            **first_seen,
        }
    return first_seen
