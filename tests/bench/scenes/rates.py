"""Accepted events a second of several subjects, in turn."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

from tests.bench.checks import check_stored, settle
from tests.bench.load import Outcome, saturate
from tests.bench.subjects import Running

CONNECTIONS = 64
_WARM_UP = 1
# Before anything is known of a subject, and how much faster than before it may be.
_FASTEST = 25_000
_ROOM = 2.0


def accept_rates(subjects: Sequence[Running], *, rounds: int, seconds: int) -> dict[str, float]:
    """The median rate of each at 64 connections, after a second to warm up."""
    found: dict[str, list[float]] = {subject.name: [] for subject in subjects}
    warm = {s.name: _once(s, _WARM_UP, _FASTEST).rate for s in subjects}
    for _ in range(rounds):
        for subject in subjects:
            most = int(max([warm[subject.name], *found[subject.name]]) * seconds * _ROOM) + 1_000
            found[subject.name].append(_once(subject, seconds, most).rate)
    return {name: median(rates) for name, rates in found.items()}


def _once(subject: Running, seconds: int, most: int) -> Outcome:
    before = subject.stored()
    outcome = saturate(
        subject.corpus, subject.port, seconds=seconds, most=most, connections=CONNECTIONS
    )
    check_stored(subject, before, outcome.answers, CONNECTIONS)
    settle(subject)
    subject.flush()
    return outcome
