"""The part that confirms orders and tells destinations."""

from __future__ import annotations

from typing import Final

from receiver import queue
from worker.runtime.runtime import process
from worker.tasks import celery_app

# Threads that wait for the network cost little; each destination gets only a few of them.
_THREADS: Final = 16


def main() -> None:
    """Confirm and tell until told to stop."""
    process.get()  # a setting that cannot work stops us here, and not the first task
    celery_app.work("threads", _THREADS, queue.SENDER_QUEUES)
