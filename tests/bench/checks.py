"""What is seen to before a number of a subject counts."""

from __future__ import annotations

import time

import psutil

from tests.bench.load import BrokenBenchmarkError
from tests.bench.subjects import Running
from tests.support.waiting import eventually

# The share of a core that counts as rest, and how long it is looked at.
_REST = 0.15
_LOOK_SECONDS = 0.2
_LONGEST_REST = 30.0


def settle(subject: Running) -> None:
    """Wait until a subject has done what it does after its answers: the next one wants its turn.

    Raises:
        BrokenBenchmarkError: it never rests.
    """
    process = psutil.Process(subject.receiver.pid)

    def rests() -> bool:
        before = sum(process.cpu_times()[:4])
        time.sleep(_LOOK_SECONDS)
        return bool(sum(process.cpu_times()[:4]) - before <= _LOOK_SECONDS * _REST)

    try:
        eventually(rests, within=_LONGEST_REST)
    except AssertionError as error:
        raise BrokenBenchmarkError(f"{subject.name} is still busy: {error}") from None


def check_stored(subject: Running, before: int | None, answers: int, in_flight: int) -> None:
    """See that everything answered was stored, and nothing that was not sent.

    Raises:
        BrokenBenchmarkError: fewer events are stored than were answered, or far more.
    """
    if before is None:
        return
    new = (subject.stored() or 0) - before
    if not answers <= new <= answers + in_flight:
        raise BrokenBenchmarkError(f"{subject.name}: {answers} answered, {new} stored")


def wait_handled(subject: Running, events: int, *, within: float) -> None:
    """Wait until the effects of all of so many events are committed.

    Raises:
        BrokenBenchmarkError: they were not in time.
    """
    try:
        eventually(lambda: subject.handled() >= events, within=within, every=0.1)
    except AssertionError as error:
        raise BrokenBenchmarkError(f"{subject.name}: not all of {events} events: {error}") from None


def wait_told(subject: Running, events: int, *, within: float) -> None:
    """Wait until so many events of ours were told, and nothing is left to tell.

    Raises:
        BrokenBenchmarkError: they were not in time.
    """
    database = subject.database
    assert database is not None

    def told() -> bool:
        left = database.count("deliveries", "state <> 'done'")
        return left == 0 and database.count("deliveries") >= events

    try:
        eventually(told, within=within, every=0.1)
    except AssertionError as error:
        raise BrokenBenchmarkError(f"{subject.name}: not all of {events} told: {error}") from None


def memory(subject: Running) -> int:
    """The bytes of the receiver that are in memory, whatever processes it is made of."""
    receiver = psutil.Process(subject.receiver.pid)
    family = [receiver, *receiver.children(recursive=True)]
    return sum(process.memory_info().rss for process in family)
