"""Measures accepted and handled events a second."""

from __future__ import annotations

import time
from collections.abc import Sequence
from statistics import median

from tests.bench.checks import check_stored, settle, wait_handled
from tests.bench.load import Outcome, generate, saturate
from tests.bench.subjects import Running

CONNECTIONS = 64
_WARM_UP = 1
# Requests for the warm-up, and the factor on the fastest rate so far for the later rounds.
_FASTEST = 25_000
_MARGIN = 2.0
_LONGEST = 60.0


def accept_rates(subjects: Sequence[Running], *, rounds: int, seconds: int) -> dict[str, float]:
    """The median rate of each subject at 64 connections, after a warm-up of a second."""
    found: dict[str, list[float]] = {subject.name: [] for subject in subjects}
    warm = {s.name: _once(s, _WARM_UP, _FASTEST).rate for s in subjects}
    for _ in range(rounds):
        for subject in subjects:
            most = int(max([warm[subject.name], *found[subject.name]]) * seconds * _MARGIN) + 1_000
            found[subject.name].append(_once(subject, seconds, most).rate)
    return {name: median(rates) for name, rates in found.items()}


def handled_rate(subject: Running, events: int) -> float:
    """The rate from the first request until the effects of the last event are committed.

    The events are sent as fast as they are accepted, after the earlier ones are handled.
    """
    # At least the request of the readiness check: all parts work.
    wait_handled(subject, subject.stored() or 1, within=_LONGEST)
    before = subject.handled()
    file, size = subject.corpus.write(events)
    began = time.perf_counter()
    generate(file, size, subject.port, seconds=_LONGEST, connections=CONNECTIONS)
    wait_handled(subject, before + events, within=_LONGEST)
    return events / (time.perf_counter() - began)


def _once(subject: Running, seconds: int, most: int) -> Outcome:
    before = subject.stored()
    outcome = saturate(
        subject.corpus, subject.port, seconds=seconds, most=most, connections=CONNECTIONS
    )
    check_stored(subject, before, outcome.answers, CONNECTIONS)
    settle(subject)
    subject.flush()
    return outcome
