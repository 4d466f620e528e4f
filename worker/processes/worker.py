"""The ``worker`` part: handles stored events and runs the sweep."""

from __future__ import annotations

import os

from receiver import queue
from receiver.database import compatibility
from worker.runtime.runtime import connect
from worker.tasks import celery_app


def main() -> None:
    """Handle events until SIGTERM or SIGINT."""
    runtime = connect()
    compatibility.check(runtime.database)
    # SQLite has one writer at a time: more processes would only wait for each other.
    concurrency = (os.cpu_count() or 2) if runtime.database.is_postgresql else 2
    runtime.close()
    celery_app.work("prefork", concurrency, queue.WORKER_QUEUES)
