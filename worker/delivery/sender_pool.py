"""Sender threads of one process: for each destination, one dispatcher and several senders.

The threads belong to the destination and start when they are needed, so that any number of
destinations that hang delay no other. The dispatcher claims as many messages as there are free
slots, has the threads send them concurrently, and records the finished ones together with the next
claims: one transaction for several messages. A wake-up call for a destination that already has a
dispatcher only makes that dispatcher look again.
"""

from __future__ import annotations

import math
import queue as queues
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import Any, Final, Generic, TypeVar

from worker.destinations.base import DeliveryError

# How many messages are sent concurrently to a destination that has no history yet.
INITIAL_CONCURRENCY: Final = 4
# After this long a dispatcher leaves the rest of a destination's rows to another task.
MAX_DISPATCH_SECONDS = 10.0
# The first finished message waits for others, to be recorded together with them, for as long as
# the last record took. So recording is at most half of a dispatcher's work, and a crash repeats
# few messages. The wait never exceeds this.
_MAX_LINGER_SECONDS = 0.03
# How often the waiting rows of a long queue are postponed, to keep the sweep away from them.
_POSTPONE_EVERY_SECONDS = 2.0
M = TypeVar("M")


@dataclass(frozen=True, slots=True)
class FinishedSend(Generic[M]):
    """A message whose sending is over, with its error if it failed."""

    message: M
    error: DeliveryError | None


@dataclass(frozen=True, slots=True)
class Throttled:
    """The pace allows the next message in ``seconds``, so soon that the dispatcher waits."""

    seconds: float


@dataclass(frozen=True, slots=True)
class ClaimRequest:
    """What a dispatcher asks for when it claims messages.

    Attributes:
        has_time: the dispatcher's time is not over, or it waits for the pace.
        free_slots: how many messages it may add to those in flight.
        postpone_rest: postpone the rows that stay behind, so that the sweep leaves them alone;
            this dispatcher will claim them.
    """

    has_time: bool
    free_slots: int
    postpone_rest: bool


# Sends one message. It must not raise: its dispatcher would wait for ever.
Send = Callable[[M], DeliveryError | None]
# Records finished messages and claims the next ones.
Step = Callable[[Sequence[FinishedSend[M]], ClaimRequest], Sequence[M] | Throttled]


@dataclass(slots=True, eq=False)
class _Senders:
    """The sender threads of one destination, and the queue of their dispatcher.

    ``dispatcher`` has one thread. ``results`` holds finished messages, and None for each wake-up
    call. ``concurrency`` is how many messages may be in flight: 1 after a failure, doubled after
    each success up to ``max_concurrency``, so that a destination in trouble gets one message at a
    time.
    """

    dispatcher: ThreadPoolExecutor
    threads: ThreadPoolExecutor
    max_concurrency: int
    results: queues.SimpleQueue[FinishedSend[Any] | None] = field(
        default_factory=queues.SimpleQueue
    )
    has_dispatcher: bool = False
    concurrency: int = INITIAL_CONCURRENCY

    def adapt_concurrency(self, finished: Sequence[FinishedSend[Any]]) -> None:
        """Adjust the concurrency to the latest results."""
        for each in finished:
            self.concurrency = (
                1 if each.error is not None else min(2 * self.concurrency, self.max_concurrency)
            )


class SenderPool:
    """The sender threads of one process, created for a destination at its first delivery."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._senders: dict[str, _Senders] = {}
        self._running: set[Future[None]] = set()
        self._closing = threading.Event()

    def dispatch(
        self, destination: str, max_concurrency: int, send: Send[M], step: Step[M]
    ) -> Future[None]:
        """Send the destination's messages until none are left, unless a dispatcher does already.

        Does not wait. The returned future has whatever ``step`` raises, after all messages in
        flight have finished and, if possible, were recorded.
        """
        with self._lock:
            senders = (
                None if self._closing.is_set() else self._acquire(destination, max_concurrency)
            )
            if senders is None:
                nothing_to_do: Future[None] = Future()
                nothing_to_do.set_result(None)
                return nothing_to_do
            running = senders.dispatcher.submit(self._run, senders, send, step)
            self._running.add(running)
        running.add_done_callback(self._forget)
        return running

    def close(self, timeout: float = 0.0) -> None:
        """Start no more messages; wait for those in flight and their records up to ``timeout``."""
        with self._lock:
            self._closing.set()
            running = list(self._running)
        wait(running, timeout)
        for senders in self._senders.values():
            senders.dispatcher.shutdown(wait=False)
            senders.threads.shutdown(wait=False)

    def _forget(self, ended: Future[None]) -> None:
        with self._lock:
            self._running.discard(ended)

    def _run(self, senders: _Senders, send: Send[M], step: Step[M]) -> None:
        try:
            _dispatch(senders, send, step, self._closing.is_set)
            while not self._release(senders):
                _dispatch(senders, send, step, self._closing.is_set)
        except BaseException:
            senders.has_dispatcher = False
            raise

    def _acquire(self, destination: str, max_concurrency: int) -> _Senders | None:
        """The destination's threads; None if it has a dispatcher, which is woken instead."""
        senders = self._senders.get(destination)
        if senders is None:
            senders = self._senders[destination] = _Senders(
                ThreadPoolExecutor(1, thread_name_prefix=f"dispatch-{destination}"),
                ThreadPoolExecutor(max_concurrency, thread_name_prefix=f"send-{destination}"),
                max_concurrency,
            )
        if senders.has_dispatcher:
            senders.results.put(None)
            return None
        senders.has_dispatcher = True
        return senders

    def _release(self, senders: _Senders) -> bool:
        """Stop being the dispatcher, unless a wake-up call has arrived; whether it stopped."""
        with self._lock:
            senders.has_dispatcher = not senders.results.empty()
            while not senders.results.empty():
                senders.results.get_nowait()
            return not senders.has_dispatcher


def _dispatch(
    senders: _Senders, send: Send[M], step: Step[M], is_closing: Callable[[], bool]
) -> None:
    """Claim, send and record until nothing can be claimed or the dispatcher's time is over."""
    ends_at: float | None = None
    postpone_at = step_seconds = 0.0
    in_flight = 0
    finished: list[FinishedSend[M]] = []
    throttled: Throttled | None = None

    def send_one(message: M) -> None:
        senders.results.put(FinishedSend(message, send(message)))

    try:
        while True:
            now = time.monotonic()
            has_time = ends_at is None or now < ends_at or throttled is not None
            has_time = has_time and not is_closing()
            ends_at = ends_at or now + MAX_DISPATCH_SECONDS
            free_slots = senders.concurrency - in_flight
            throttled = None
            if finished or (has_time and free_slots > 0):
                postpone_rest = now >= postpone_at
                claimed = step(finished, ClaimRequest(has_time, free_slots, postpone_rest))
                finished, step_seconds = [], time.monotonic() - now
                postpone_at = now + _POSTPONE_EVERY_SECONDS if postpone_rest else postpone_at
                throttled = claimed if isinstance(claimed, Throttled) else None
                for message in () if isinstance(claimed, Throttled) else claimed:
                    senders.threads.submit(send_one, message)
                    in_flight += 1
            if not in_flight and throttled is None:
                return
            linger = min(step_seconds, _MAX_LINGER_SECONDS)
            finished = _next_finished(senders, in_flight, throttled, linger)
            in_flight -= len(finished)
            senders.adapt_concurrency(finished)
    except BaseException:
        _record_remaining(senders, in_flight, finished, step)
        raise


def _next_finished(
    senders: _Senders, in_flight: int, throttled: Throttled | None, linger: float
) -> list[FinishedSend[M]]:
    """Wait for finished messages.

    The first one waits ``linger`` seconds for others. The wait also ends when a wake-up call
    arrives while a slot is free, and when the time of ``throttled`` is over.
    """
    finished: list[FinishedSend[M]] = []
    until = math.inf if throttled is None else time.monotonic() + throttled.seconds
    while True:
        left = max(until - time.monotonic(), 0)
        try:
            one = senders.results.get(timeout=None if left == math.inf else left)
        except queues.Empty:
            return finished
        if one is not None and not finished:
            until = min(until, time.monotonic() + linger)
        if one is not None:
            finished.append(one)
        if len(finished) == in_flight or (one is None and in_flight < senders.concurrency):
            return finished


def _record_remaining(
    senders: _Senders, in_flight: int, finished: list[FinishedSend[M]], step: Step[M]
) -> None:
    """After an error, wait for the messages in flight and try to record them."""
    while in_flight:
        one = senders.results.get()
        if one is not None:
            finished.append(one)
            in_flight -= 1
    if finished:
        step(finished, ClaimRequest(has_time=False, free_slots=0, postpone_rest=False))
