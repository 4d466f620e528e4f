"""How long it takes from the sending of a webhook until Slack, or a sink for it, is asked."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass
from statistics import median

from tests.bench.checks import wait_handled
from tests.bench.load import BrokenBenchmarkError, generate
from tests.bench.report import Row, Target
from tests.bench.scenes import Profile
from tests.bench.scenes.rates import CONNECTIONS
from tests.bench.subjects import OURS, USUAL, Lab, Running, slack

# A second of so few is enough to fill caches, and soon told; whoever has not told them all in so
# long is broken, and not slow.
_WARM_UP_RATE = 50
_LONGEST = 60
_LOOK_SECONDS = 0.2
_MILLI = 1000


@dataclass(frozen=True, slots=True)
class _Pace:
    """A rate, whether one message may tell several codes then, and what is wanted."""

    rate: int
    coalesce: bool
    p50: float | None
    """The median's ratio to the usual way's."""
    longest: float | None = None
    """Milliseconds, of the 99th percentile."""


@dataclass(frozen=True, slots=True)
class _Told:
    """One round: percentiles in milliseconds, and seconds from the last sending to the last word.

    An event that is untold counts as told when it was given up: its latency is more than that.
    """

    p50: float
    p99: float
    late: float
    untold: int


_PACES = (
    _Pace(50, coalesce=True, p50=1.2),
    _Pace(300, coalesce=False, p50=None, longest=1000.0),
)
_P99 = 1.0  # to the usual way's


def measure(lab: Lab, profile: Profile, names: Sequence[str]) -> list[Row]:
    """Percentiles of each at each rate, and whether it keeps up; nothing is confirmed.

    The pace of a destination is set beyond the load: Slack's own, of one message a second, would
    be all that is measured.
    """
    names = [name for name in (USUAL, *OURS) if name in names]
    rows: list[Row] = []
    for pace in _PACES:
        found: dict[str, list[_Told]] = {name: [] for name in names}
        for _ in range(profile.rounds):
            for name in names:  # one at a time: an idle one's sweeps would cost the others
                configuration = slack(coalesce=pace.coalesce)
                with lab.running(name, everything=True, configuration=configuration) as subject:
                    found[name].append(_once(lab, subject, pace.rate, profile))
        rows += _rows(pace, found, profile.patience)
    return rows


def _rows(pace: _Pace, found: dict[str, list[_Told]], patience: int) -> Iterator[Row]:
    figure = f"POST to Slack request at {pace.rate} events/s"
    for name, rounds in found.items():
        ours, usual = name in OURS, found.get(USUAL) if name in OURS else None
        for word, bound in (("p50", pace.p50), ("p99", _P99)):
            value, reference = (
                None if many is None else median(getattr(each, word) for each in many)
                for many in (rounds, usual)
            )
            assert value is not None
            yield Row(
                figure=f"{figure}, {word}", subject=name, value=value, unit="ms",
                reference=None if reference is None else USUAL,
                ratio=None if reference is None else value / reference,
                target=None if reference is None or bound is None else Target(bound),
            )  # fmt: skip
        if ours and pace.longest is not None:
            yield Row(
                figure=f"{figure}, p99", subject=name, value=median(each.p99 for each in rounds),
                unit="ms", target=Target(pace.longest),
            )  # fmt: skip
        yield Row(
            figure=f"{figure}, the last told after", subject=name,
            value=median(each.late for each in rounds), unit="s",
        )  # fmt: skip
        yield Row(
            figure=f"{figure}, untold {patience} s after the last", subject=name,
            value=max(each.untold for each in rounds), unit="events",
            target=Target(0) if ours else None,
        )  # fmt: skip


def _once(lab: Lab, subject: Running, rate: int, profile: Profile) -> _Told:
    wait_handled(subject, 1, within=_LONGEST)
    warm = _load(lab, subject, _WARM_UP_RATE, 1, _LONGEST)
    if warm.untold:
        raise BrokenBenchmarkError(
            f"{subject.name}: {warm.untold} events untold after {_LONGEST} s"
        )
    return _load(lab, subject, rate, profile.told_seconds, profile.patience)


def _load(lab: Lab, subject: Running, rate: int, seconds: int, patience: int) -> _Told:
    first = subject.corpus.written
    file, size = subject.corpus.write(rate * seconds + 100)
    load = generate(file, size, subject.port, seconds=seconds, connections=CONNECTIONS, rate=rate)
    sent = dict(enumerate(load.sent, start=first))
    last = max(sent.values())
    heard = _listen(lab, sent.keys(), until=last + patience)
    latencies = sorted(heard.get(order, last + patience) - at for order, at in sent.items())
    return _Told(
        p50=latencies[len(latencies) // 2] * _MILLI,
        p99=latencies[len(latencies) * 99 // 100] * _MILLI,
        late=(max(heard.values()) if len(heard) == len(sent) else last + patience) - last,
        untold=len(sent) - len(heard),
    )


def _listen(lab: Lab, orders: Set[int], *, until: float) -> dict[int, float]:
    """When each of the orders was first told; those that were not by then are missing."""
    heard: dict[int, float] = {}
    while len(heard) < len(orders) and time.perf_counter() < until:
        time.sleep(_LOOK_SECONDS)
        heard = {**{order: at for order, at in lab.told().items() if order in orders}, **heard}
    return heard
