"""The ``sender`` part: confirms orders and delivers notifications."""

from __future__ import annotations

from typing import Final

from receiver import queue
from receiver.database import compatibility
from worker.runtime.runtime import process
from worker.tasks import celery_app

# Tasks only look up rows and hand them to the threads that wait for the network.
_THREADS: Final = 16


def main() -> None:
    """Confirm and deliver until SIGTERM or SIGINT."""
    runtime = process.get()  # an invalid setting stops the process here, not the first task
    compatibility.check(runtime.database)
    celery_app.work("threads", _THREADS, queue.SENDER_QUEUES)
