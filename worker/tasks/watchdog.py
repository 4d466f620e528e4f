"""A worker that has silently stopped consuming notices it, and has itself started afresh.

Celery workers on Redis have been seen to stay connected, and to take nothing more, after the
broker came back from a fault. From outside such a process looks healthy. So each worker's main
process listens for its own messages: in a long silence it publishes a tick of the kind that it
lives on, and where nobody takes that either, it ends, and its supervisor starts another.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import structlog
from celery import Celery
from celery.worker import state
from sqlalchemy.exc import SQLAlchemyError

from receiver import queue
from receiver.database import heartbeats
from receiver.database.engine import Database

# The tick by which each kind of worker shows that it is alive; the clock sends one a second or two.
TICKS = {"worker": queue.SWEEP, "sender": queue.PULSE}
# Without a message for this long, a tick is sent; without an answer to it for as long, it is over.
SILENCE_SECONDS = 10.0
# Others of its kind may take every tick by chance, but not for so long.
LONGEST_SILENCE_SECONDS = 600.0
_LOOK_SECONDS = 2.0
_GRACE_SECONDS = 15.0
_log = structlog.get_logger(__name__)


def end_process() -> None:
    """Ask this process to stop in good order, and make it if it does not."""
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(_GRACE_SECONDS)
    os.kill(os.getpid(), signal.SIGKILL)


@dataclass(slots=True)
class Watchdog:
    """Watches one worker's main process; :meth:`heard` is told of every message it takes.

    ``others_alive`` says whether any worker of its kind did a tick lately.
    """

    send_tick: Callable[[], None]
    others_alive: Callable[[], bool]
    end: Callable[[], None] = end_process
    busy: Callable[[], bool] = lambda: bool(state.reserved_requests)
    clock: Callable[[], float] = time.monotonic
    _last: float = field(init=False)
    _asked: float | None = field(init=False)

    def __post_init__(self) -> None:
        self.heard()

    def heard(self) -> None:
        """A message came."""
        self._last, self._asked = self.clock(), None

    def look(self) -> None:
        """Do what the silence so far calls for."""
        now = self.clock()
        silent = now - self._last
        if silent < SILENCE_SECONDS:
            return
        if self._asked is None:
            self._ask(now)
        elif now - self._asked >= SILENCE_SECONDS:
            alone = not self.others_alive() and not self.busy()
            if alone or silent >= LONGEST_SILENCE_SECONDS:
                _log.error("worker.silent", seconds=round(silent))
                self.end()
            self._asked = None

    def _ask(self, now: float) -> None:
        try:
            self.send_tick()
        except Exception as error:  # noqa: BLE001 - whatever the broker's client raises
            # A broker that is away explains the silence.
            _log.warning("watchdog.broker_away", error=type(error).__name__)
            self.heard()
        else:
            self._asked = now


def start(app: Celery, part: str, database: Database) -> Watchdog | None:
    """Watch this process from a thread of its own; None for a part that takes no ticks."""
    task = TICKS.get(part)
    if task is None:
        return None

    def send_tick() -> None:
        app.send_task(task, queue=queue.QUEUE_OF[task], expires=SILENCE_SECONDS, retry=False)

    def others_alive() -> bool:
        try:
            with database.reading() as session:
                return heartbeats.alive(session, part, database.now(session))
        except SQLAlchemyError:
            return True  # nothing can be known, and another process would know no more

    watchdog = Watchdog(send_tick, others_alive)

    def watch() -> None:
        while True:
            time.sleep(_LOOK_SECONDS)
            watchdog.look()

    threading.Thread(target=watch, name="watchdog", daemon=True).start()
    return watchdog
