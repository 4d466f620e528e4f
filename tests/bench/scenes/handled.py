"""Events a second from POST to committed code and order, with everything running."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack
from statistics import median

from tests.bench.checks import wait_handled
from tests.bench.load import generate
from tests.bench.report import Row, Target
from tests.bench.scenes import Profile
from tests.bench.scenes.rates import CONNECTIONS
from tests.bench.subjects import OURS, USUAL, Lab, Running

_TARGET = Target(5.0, at_least=True)
_FIGURE = "handled events/s"
_LONGEST = 60.0
_SHARE = 3  # of the events of a burst, which is measured only once


def measure(lab: Lab, profile: Profile, names: Sequence[str]) -> list[Row]:
    """As many events as fast as they are taken, until the effects of the last are committed."""
    names = [name for name in (USUAL, *OURS) if name in names]
    found: dict[str, list[float]] = {name: [] for name in names}
    rounds = min(profile.rounds, 3)
    for _ in range(rounds):
        for name in names:  # one at a time: an idle one's sweeps would cost the others
            with ExitStack() as stack:
                subject = stack.enter_context(lab.running(name, everything=True))
                found[name].append(_once(subject, profile.events // _SHARE))
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


def _once(subject: Running, events: int) -> float:
    wait_handled(subject, 1, within=30)  # the one that showed that it answers: all parts work
    before = subject.handled()
    file, size = subject.corpus.write(events)
    began = time.perf_counter()
    generate(file, size, subject.port, seconds=_LONGEST, connections=CONNECTIONS)
    wait_handled(subject, before + events, within=_LONGEST)
    return events / (time.perf_counter() - began)
