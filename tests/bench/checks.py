"""Checks that make a subject's numbers valid."""

from __future__ import annotations

import time

import psutil

from tests.bench.load import BrokenBenchmarkError
from tests.bench.subjects import Running
from tests.support.waiting import eventually

# The share of a core below which a process is idle, and the length of a sample.
_IDLE_SHARE = 0.15
_SAMPLE_SECONDS = 0.2
_LONGEST_WAIT = 30.0


def settle(subject: Running) -> None:
    """Wait until a subject is idle, so that its work does not slow the next subject down.

    Raises:
        BrokenBenchmarkError: it does not become idle.
    """
    process = psutil.Process(subject.receiver.pid)

    def is_idle() -> bool:
        before = sum(process.cpu_times()[:4])
        time.sleep(_SAMPLE_SECONDS)
        return bool(sum(process.cpu_times()[:4]) - before <= _SAMPLE_SECONDS * _IDLE_SHARE)

    try:
        eventually(is_idle, within=_LONGEST_WAIT)
    except AssertionError as error:
        raise BrokenBenchmarkError(f"{subject.name} is still busy: {error}") from None


def check_stored(subject: Running, before: int | None, answers: int, in_flight: int) -> None:
    """Check that every answered event is stored, and no others but those in flight.

    Raises:
        BrokenBenchmarkError: fewer events are stored than were answered, or too many.
    """
    if before is None:
        return
    new = (subject.stored() or 0) - before
    if not answers <= new <= answers + in_flight:
        raise BrokenBenchmarkError(f"{subject.name}: {answers} answered, {new} stored")


def wait_handled(subject: Running, events: int, *, within: float) -> None:
    """Wait until the effects of ``events`` events are committed.

    Raises:
        BrokenBenchmarkError: they are not within the time.
    """
    try:
        eventually(lambda: subject.handled() >= events, within=within, every=0.1)
    except AssertionError as error:
        raise BrokenBenchmarkError(
            f"{subject.name}: not all of {events} events handled: {error}"
        ) from None


def wait_delivered(subject: Running, events: int, *, within: float) -> None:
    """Wait until ``events`` events are delivered and no delivery is left.

    Raises:
        BrokenBenchmarkError: they are not within the time.
    """
    database = subject.database
    assert database is not None

    def is_delivered() -> bool:
        left = database.count("deliveries", "state <> 'done'")
        return left == 0 and database.count("deliveries") >= events

    try:
        eventually(is_delivered, within=within, every=0.1)
    except AssertionError as error:
        raise BrokenBenchmarkError(
            f"{subject.name}: not all of {events} delivered: {error}"
        ) from None


def memory(subject: Running) -> int:
    """The resident memory of all of the receiver's processes, in bytes."""
    receiver = psutil.Process(subject.receiver.pid)
    processes = [receiver, *receiver.children(recursive=True)]
    return sum(process.memory_info().rss for process in processes)
