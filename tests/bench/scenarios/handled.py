"""Events a second from POST to committed code and order, with everything running."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from statistics import median

from tests.bench.report import Measurement, Target
from tests.bench.scenarios import Profile
from tests.bench.scenarios.rates import handled_rate
from tests.bench.subjects import OURS, USUAL, Lab

_TARGET = Target(5.0, at_least=True)
_FIGURE = "handled events/s"
DIVISOR = 3  # of the profile's events: a burst is measured once, this in several rounds


def measure(lab: Lab, profile: Profile, names: Sequence[str]) -> list[Measurement]:
    """Send events as fast as they are accepted, until the effects of the last are committed."""
    names = [name for name in (USUAL, *OURS) if name in names]
    found: dict[str, list[float]] = {name: [] for name in names}
    rounds = min(profile.rounds, 3)
    for _ in range(rounds):
        for name in names:  # one at a time: the sweeps of an idle one would slow the others
            with ExitStack() as stack:
                subject = stack.enter_context(lab.running(name, everything=True))
                found[name].append(handled_rate(subject, profile.events // DIVISOR))
    rates = {name: median(values) for name, values in found.items()}
    return [
        Measurement(
            figure=_FIGURE, subject=name, value=rate, unit="/s", reference=USUAL,
            ratio=rate / rates[USUAL], target=_TARGET,
        )
        if name in OURS and USUAL in rates
        else Measurement(figure=_FIGURE, subject=name, value=rate, unit="/s")
        for name, rate in rates.items()
    ]  # fmt: skip
