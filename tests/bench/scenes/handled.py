"""Events a second from POST to committed code and order, with everything running."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from statistics import median

from tests.bench.report import Row, Target
from tests.bench.scenes import Profile
from tests.bench.scenes.rates import handled_rate
from tests.bench.subjects import OURS, USUAL, Lab

_TARGET = Target(5.0, at_least=True)
_FIGURE = "handled events/s"
SHARE = 3  # of the events of a burst, which is measured only once


def measure(lab: Lab, profile: Profile, names: Sequence[str]) -> list[Row]:
    """As many events as fast as they are taken, until the effects of the last are committed."""
    names = [name for name in (USUAL, *OURS) if name in names]
    found: dict[str, list[float]] = {name: [] for name in names}
    rounds = min(profile.rounds, 3)
    for _ in range(rounds):
        for name in names:  # one at a time: an idle one's sweeps would cost the others
            with ExitStack() as stack:
                subject = stack.enter_context(lab.running(name, everything=True))
                found[name].append(handled_rate(subject, profile.events // SHARE))
    rates = {name: median(values) for name, values in found.items()}
    return [
        Row(
            figure=_FIGURE, subject=name, value=rate, unit="/s", reference=USUAL,
            ratio=rate / rates[USUAL], target=_TARGET,
        )
        if name in OURS and USUAL in rates
        else Row(figure=_FIGURE, subject=name, value=rate, unit="/s")
        for name, rate in rates.items()
    ]  # fmt: skip
