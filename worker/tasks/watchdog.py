"""Restarts a worker that has silently stopped consuming messages.

Celery workers on Redis have been seen to stay connected after a broker fault and to receive
nothing more; from outside such a process looks healthy. So each worker's main process watches the
messages it receives. After a long silence it publishes a probe, a task of the kind that beat sends
it. If the probe is not received either, the process ends, and its supervisor starts a new one.
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

# The task that writes each kind of worker's heartbeat; beat publishes it every one or two seconds.
PROBES = {"worker": queue.SWEEP, "sender": queue.PULSE}
# After this long without a message, publish a probe; after as long again, end the process.
SILENCE_SECONDS = 10.0
# Other workers may receive every probe by chance, but not for this long.
MAX_SILENCE_SECONDS = 600.0
_CHECK_SECONDS = 2.0
_GRACE_SECONDS = 15.0
_log = structlog.get_logger(__name__)


def end_process() -> None:
    """Send this process SIGTERM, and SIGKILL if it does not stop in time."""
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(_GRACE_SECONDS)
    os.kill(os.getpid(), signal.SIGKILL)


@dataclass(slots=True)
class Watchdog:
    """Watches one worker's main process; call :meth:`message_received` for every message.

    ``others_alive`` tells whether any worker of the same kind wrote a heartbeat lately.
    """

    send_probe: Callable[[], None]
    others_alive: Callable[[], bool]
    end: Callable[[], None] = end_process
    busy: Callable[[], bool] = lambda: bool(state.reserved_requests)
    clock: Callable[[], float] = time.monotonic
    _last_message: float = field(init=False)
    _probed: float | None = field(init=False)

    def __post_init__(self) -> None:
        self.message_received()

    def message_received(self) -> None:
        """Record that the worker received a message."""
        self._last_message, self._probed = self.clock(), None

    def check(self) -> None:
        """Publish a probe, or end the process, depending on the length of the silence."""
        now = self.clock()
        silence = now - self._last_message
        if silence < SILENCE_SECONDS:
            return
        if self._probed is None:
            self._probe(now)
        elif now - self._probed >= SILENCE_SECONDS:
            stuck = not self.others_alive() and not self.busy()
            if stuck or silence >= MAX_SILENCE_SECONDS:
                _log.error("worker.stalled", seconds=round(silence))
                self.end()
            self._probed = None

    def _probe(self, now: float) -> None:
        try:
            self.send_probe()
        except Exception as error:  # noqa: BLE001 - whatever the broker's client raises
            # An unavailable broker explains the silence.
            _log.warning("watchdog.broker_away", error=type(error).__name__)
            self.message_received()
        else:
            self._probed = now


def start(app: Celery, part: str, database: Database) -> Watchdog | None:
    """Watch this process from a daemon thread; None for a part that beat sends no probes."""
    task = PROBES.get(part)
    if task is None:
        return None

    def send_probe() -> None:
        app.send_task(task, queue=queue.QUEUE_OF[task], expires=SILENCE_SECONDS, retry=False)

    def others_alive() -> bool:
        try:
            with database.reading() as session:
                return heartbeats.alive(session, part, database.now(session))
        except SQLAlchemyError:
            return True  # unknown; a new process could not tell either

    watchdog = Watchdog(send_probe, others_alive)

    def watch() -> None:
        while True:
            time.sleep(_CHECK_SECONDS)
            watchdog.check()

    threading.Thread(target=watch, name="watchdog", daemon=True).start()
    return watchdog
