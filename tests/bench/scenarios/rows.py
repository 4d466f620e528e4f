"""The cost of a million rows for accepting, handling and queries, against an almost empty table."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from statistics import median

from tests.bench.checks import wait_delivered, wait_handled
from tests.bench.databases import BenchDatabase
from tests.bench.filling import fill, run_maintenance
from tests.bench.load import ROOT, BrokenBenchmarkError, generate
from tests.bench.report import Measurement, Target
from tests.bench.scenarios import Profile
from tests.bench.scenarios.handled import DIVISOR
from tests.bench.scenarios.rates import CONNECTIONS, accept_rates, handled_rate
from tests.bench.subjects import OURS, Lab, slack
from tests.support.processes import leashed

_ORIGINALS = 200
_LONGEST = 60.0
_FEW = "nearly empty"
_MANY = "grown"
_RATE_TARGET = Target(0.9, at_least=True)
_TIME_TARGET = Target(1.5)


@dataclass(frozen=True, slots=True)
class _Pair:
    """Two databases of one subject that differ only in the number of rows."""

    lab: Lab
    name: str
    databases: Mapping[str, BenchDatabase]
    environment: Mapping[str, str]
    """The environment of a command, without the database."""
    rows: int

    def row(
        self, figure: str, found: Mapping[str, float], *, unit: str, target: Target
    ) -> Measurement:
        """The figure of the large database, with its ratio to the small one."""
        return Measurement(
            figure=f"{figure} with {self.rows:,} rows", subject=self.name, value=found[_MANY],
            unit=unit, reference=_FEW, ratio=found[_MANY] / found[_FEW], target=target,
        )  # fmt: skip


def measure(lab: Lab, profile: Profile, names: Sequence[str]) -> list[Measurement]:
    """Both databases in turn; queries come first, since measuring rates adds rows."""
    found: list[Measurement] = []
    for name in [name for name in OURS if name in names]:
        with ExitStack() as stack:
            few = stack.enter_context(lab.database(name))
            variables = add_originals(lab, name, few)
            many = stack.enter_context(lab.database(name, copy_of=few))
            run_maintenance(few)
            fill(many, profile.rows)
            pair = _Pair(lab, name, {_FEW: few, _MANY: many}, variables, profile.rows)
            found += _rows(pair, profile)
    return found


def _rows(pair: _Pair, profile: Profile) -> Iterator[Measurement]:
    order = pair.databases[_FEW].value("SELECT order_id FROM codes ORDER BY id DESC LIMIT 1")
    for words in (("codes", "list"), ("wait", order), ("stats",)):
        figure = f"codecatch {' '.join(words).replace(order, 'ORDER')}"
        yield pair.row(figure, _times(pair, words, profile.rounds), unit="s", target=_TIME_TARGET)
    handled = _handled(pair, profile.events // DIVISOR, profile.rounds)
    yield pair.row("handled events/s", handled, unit="/s", target=_RATE_TARGET)
    accepted = _accepted(pair, profile)
    yield pair.row("accepted events/s", accepted, unit="/s", target=_RATE_TARGET)


def add_originals(lab: Lab, name: str, database: BenchDatabase) -> Mapping[str, str]:
    """Handle and deliver a few events to copy; returns the environment for commands."""
    with lab.running(
        name, everything=True, database=database, configuration=slack(coalesce=True)
    ) as subject:
        file, size = subject.corpus.write(_ORIGINALS)
        generate(file, size, subject.port, seconds=_LONGEST, connections=CONNECTIONS)
        wait_handled(subject, _ORIGINALS + 1, within=_LONGEST)
        wait_delivered(subject, _ORIGINALS + 1, within=_LONGEST)
        return subject.environment


def _times(pair: _Pair, words: Sequence[str], rounds: int) -> dict[str, float]:
    """The median seconds of a command; with several rounds, a first one fills the caches."""
    first = 1 if rounds > 1 else 0
    found: dict[str, list[float]] = {which: [] for which in pair.databases}
    for _ in range(first + rounds):
        for which, database in pair.databases.items():
            variables = {**pair.environment, "DATABASE_URL": database.url}
            found[which].append(_time(words, variables))
    return {which: median(times[first:]) for which, times in found.items()}


def _time(words: Sequence[str], variables: Mapping[str, str]) -> float:
    command = leashed([sys.executable, "-m", "worker.cli", *words])
    began = time.perf_counter()
    try:
        done = subprocess.run(
            command, cwd=ROOT, env=variables, check=False, capture_output=True, text=True,
            timeout=2 * _LONGEST,
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise BrokenBenchmarkError(f"codecatch {words[0]}: {error}") from None
    if done.returncode or not done.stdout:
        reason = done.stderr.strip().rpartition("\n")[2]
        raise BrokenBenchmarkError(f"codecatch {words[0]} exited with {done.returncode}: {reason}")
    return time.perf_counter() - began


def _handled(pair: _Pair, events: int, rounds: int) -> dict[str, float]:
    found: dict[str, list[float]] = {which: [] for which in pair.databases}
    for _ in range(rounds):
        for which, database in pair.databases.items():
            with pair.lab.running(pair.name, everything=True, database=database) as subject:
                found[which].append(handled_rate(subject, events))
    return {which: median(rates) for which, rates in found.items()}


def _accepted(pair: _Pair, profile: Profile) -> dict[str, float]:
    with ExitStack() as stack:
        subjects = [
            replace(stack.enter_context(pair.lab.running(pair.name, database=database)), name=which)
            for which, database in pair.databases.items()
        ]
        return accept_rates(subjects, rounds=profile.rounds, seconds=profile.seconds)
