"""The latency of acknowledgements at half of the rate that codecatch can accept."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from statistics import median

from tests.bench.checks import check_stored, settle
from tests.bench.load import generate
from tests.bench.report import Measurement, Target
from tests.bench.scenarios import Profile
from tests.bench.scenarios.rates import CONNECTIONS, accept_rates
from tests.bench.subjects import BARE, OURS, Lab, Running

_TARGET = Target(4.0)
_MILLI = 1000


def measure(lab: Lab, profile: Profile, names: Sequence[str]) -> list[Measurement]:
    """The 99th percentile of codecatch and of the bare endpoint at the same rate, open load."""
    rows: list[Measurement] = []
    with ExitStack() as stack:
        ours = [stack.enter_context(lab.running(name)) for name in OURS if name in names]
        bare = stack.enter_context(lab.running(BARE)) if BARE in names else None
        rates = accept_rates(ours, rounds=1, seconds=profile.seconds)
        for subject in ours:
            rate = rates[subject.name] / 2
            both = [each for each in (bare, subject) if each is not None]
            found: dict[str, list[float]] = {each.name: [] for each in both}
            for _ in range(profile.rounds):
                for each in both:
                    found[each.name].append(_p99(each, rate, profile.seconds))
            rows += _rows(subject.name, found, f"ack p99 at {rate:,.0f} events/s")
    return rows


def _rows(ours: str, found: dict[str, list[float]], figure: str) -> list[Measurement]:
    p99 = {name: median(values) * _MILLI for name, values in found.items()}
    if BARE not in p99:
        return [Measurement(figure=figure, subject=ours, value=p99[ours], unit="ms")]
    return [
        Measurement(figure=figure, subject=BARE, value=p99[BARE], unit="ms"),
        Measurement(
            figure=figure, subject=ours, value=p99[ours], unit="ms", reference=BARE,
            ratio=p99[ours] / p99[BARE], target=_TARGET,
        ),
    ]  # fmt: skip


def _p99(subject: Running, rate: float, seconds: int) -> float:
    file, size = subject.corpus.write(int(rate * seconds) + 100)
    before = subject.stored()
    outcome = generate(
        file, size, subject.port, seconds=seconds, connections=CONNECTIONS, rate=rate
    )
    check_stored(subject, before, outcome.answers, 0)
    settle(subject)
    subject.flush()
    return outcome.p99
