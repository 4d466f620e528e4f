"""Accepted and durable events a second: one receiver, 64 connections, the worker stopped."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack

from tests.bench.load import saturate
from tests.bench.report import Measurement, Target
from tests.bench.scenarios import Profile
from tests.bench.scenarios.rates import CONNECTIONS, accept_rates
from tests.bench.subjects import BARE, DEBIAN, OURS, USUAL, Lab

_TARGETS = {BARE: 0.5, USUAL: 6.0, DEBIAN: 1.5}
_FIGURE = "accepted events/s"
_UNIT = "/s"
# More than our own generator and wrk can send to the sink.
_MOST = 100_000


def measure(lab: Lab, profile: Profile, names: Sequence[str]) -> list[Measurement]:
    """Codecatch's rate, its ratio to each of the others, and the limit of the load itself."""
    with ExitStack() as stack:
        subjects = [stack.enter_context(lab.running(name)) for name in names]
        rates = accept_rates(subjects, rounds=profile.rounds, seconds=profile.seconds)
    rows = [
        Measurement(figure=_FIGURE, subject=name, value=rate, unit=_UNIT)
        for name, rate in rates.items()
        if name not in OURS
    ]
    for ours in [name for name in OURS if name in rates]:
        known = [other for other in _TARGETS if other in rates]
        rows += [
            Measurement(
                figure=_FIGURE, subject=ours, value=rates[ours], unit=_UNIT, reference=other,
                ratio=rates[ours] / rates[other], target=Target(_TARGETS[other], at_least=True),
            )
            for other in known
        ]  # fmt: skip
        if not known:
            rows.append(Measurement(figure=_FIGURE, subject=ours, value=rates[ours], unit=_UNIT))
    limit = saturate(lab.corpus, lab.sink, seconds=1, most=_MOST, connections=CONNECTIONS)
    return [*rows, Measurement(figure="requests/s that the load can send", subject="load",
                       value=limit.rate, unit=_UNIT)]  # fmt: skip
