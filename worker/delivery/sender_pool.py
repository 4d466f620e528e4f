"""Telling one destination: one thread of a process claims and records, some others send.

Whoever leads claims as many messages as there are free places, has them sent side by side, and
writes how those ended together with the next claims: one transaction for several messages. A
wake-up call for a destination that is led already only makes its leader look again.
"""

from __future__ import annotations

import math
import queue as queues
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Final, Generic, TypeVar

from worker.destinations.base import DeliveryError

# So many messages are sent at once to a destination of which nothing is known yet.
FIRST_ABREAST: Final = 4
# After this long a leader leaves the rest of a destination's rows to another task.
TERM_SECONDS = 10.0
# The first message that has landed waits for others, to be recorded together with them, for as
# long as the last record took: so recording is at most half of a leader's work, and what a crash
# would have told again is little. Never for longer than this.
_LONGEST_LINGER_SECONDS = 0.03
# How often the sweep is kept away from what waits in a long queue.
_HUSH_SECONDS = 2.0
M = TypeVar("M")


@dataclass(frozen=True, slots=True)
class Landed(Generic[M]):
    """A message whose sending is over, and what went wrong, if something did."""

    message: M
    error: DeliveryError | None


@dataclass(frozen=True, slots=True)
class Turn:
    """Nothing may be sent for so many seconds; it is worth to wait, and others do not."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Round:
    """How a leader takes more in hand.

    Attributes:
        goes_on: the leader's term is not over.
        places: how many messages it may add to what it has in hand.
        waited: the leader has waited for the destination's turn.
        hushes: what stays behind is to be hidden from the sweep, since it has somebody.
    """

    goes_on: bool = True
    places: int = FIRST_ABREAST
    waited: bool = False
    hushes: bool = False


# Sends one message; raises nothing, or its leader would wait for ever.
Send = Callable[[M], DeliveryError | None]
# Records what has landed and claims what may be sent next.
Step = Callable[[Sequence[Landed[M]], Round], Sequence[M] | Turn]


@dataclass(slots=True, eq=False)
class _Crew:
    """Those who send to one destination, and what their leader is told.

    ``abreast`` is how many messages may be sent at once: one after a failure, more after each
    success up to ``most``, so that a destination in trouble is asked by one message and not by
    several.
    """

    hands: ThreadPoolExecutor
    most: int
    news: queues.SimpleQueue[Landed[Any] | None] = field(default_factory=queues.SimpleQueue)
    led: bool = False
    abreast: int = FIRST_ABREAST

    def learn(self, landed: Sequence[Landed[Any]]) -> None:
        """Note how the destination fares."""
        for each in landed:
            self.abreast = 1 if each.error is not None else min(2 * self.abreast, self.most)


class SenderPool:
    """The crews of one process, one for each destination that was ever told anything."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._crews: dict[str, _Crew] = {}

    def work(self, destination: str, most: int, send: Send[M], step: Step[M]) -> None:
        """Lead the destination's crew until nothing is left to do, unless somebody leads it.

        At most ``most`` messages are sent at once.

        Raises whatever ``step`` raises, once all that is being sent has landed and was recorded
        if possible.
        """
        crew = self._enlist(destination, most)
        if crew is None:
            return
        try:
            _lead(crew, send, step)
            while not self._retires(crew):
                _lead(crew, send, step)
        except BaseException:
            crew.led = False
            raise

    def close(self) -> None:
        """Begin nothing any more."""
        for crew in self._crews.values():
            crew.hands.shutdown(wait=False, cancel_futures=True)

    def _enlist(self, destination: str, most: int) -> _Crew | None:
        """The destination's crew for its new leader; None where it has one, who is told."""
        with self._lock:
            crew = self._crews.get(destination)
            if crew is None:
                hands = ThreadPoolExecutor(most, thread_name_prefix=f"send-{destination}")
                crew = self._crews[destination] = _Crew(hands, most)
            if crew.led:
                crew.news.put(None)
                return None
            crew.led = True
            return crew

    def _retires(self, crew: _Crew) -> bool:
        """Whether the leader may go: nobody called meanwhile."""
        with self._lock:
            crew.led = not crew.news.empty()
            while not crew.news.empty():
                crew.news.get_nowait()
            return not crew.led


def _lead(crew: _Crew, send: Send[M], step: Step[M]) -> None:
    """One term: until nothing is left to be claimed, or it is over."""
    until: float | None = None
    hushes_at = took = 0.0
    flying = 0
    landed: list[Landed[M]] = []
    waited = False

    def carry(message: M) -> None:
        crew.news.put(Landed(message, send(message)))

    try:
        while True:
            now = time.monotonic()
            goes_on = until is None or now < until
            until = until or now + TERM_SECONDS
            places = crew.abreast - flying
            turn = None
            if landed or ((goes_on or waited) and places > 0):
                hushes = now >= hushes_at
                taken = step(landed, Round(goes_on, places, waited, hushes))
                landed, took = [], time.monotonic() - now
                hushes_at = now + _HUSH_SECONDS if hushes else hushes_at
                turn = taken if isinstance(taken, Turn) else None
                for message in () if isinstance(taken, Turn) else taken:
                    crew.hands.submit(carry, message)
                    flying += 1
            if not flying and turn is None:
                return
            landed = _news(crew, flying, turn, min(took, _LONGEST_LINGER_SECONDS))
            waited = turn is not None
            flying -= len(landed)
            crew.learn(landed)
    except BaseException:
        _salvage(crew, flying, landed, step)
        raise


def _news(crew: _Crew, flying: int, turn: Turn | None, linger: float) -> list[Landed[M]]:
    """What has landed; ends as well if somebody calls while there is a place, or it is the turn.

    The first that lands waits ``linger`` seconds for others.
    """
    landed: list[Landed[M]] = []
    until = math.inf if turn is None else time.monotonic() + turn.seconds
    while True:
        left = max(until - time.monotonic(), 0)
        try:
            one = crew.news.get(timeout=None if left == math.inf else left)
        except queues.Empty:
            return landed
        if one is not None and not landed:
            until = min(until, time.monotonic() + linger)
        if one is not None:
            landed.append(one)
        if len(landed) == flying or (one is None and flying < crew.abreast):
            return landed


def _salvage(crew: _Crew, flying: int, landed: list[Landed[M]], step: Step[M]) -> None:
    """Record what is still being sent, if the trouble is over by the time it has landed."""
    while flying:
        one = crew.news.get()
        if one is not None:
            landed.append(one)
            flying -= 1
    if landed:
        step(landed, Round(goes_on=False))
