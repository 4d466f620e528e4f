"""Starts parts by forking a process with all modules loaded: 1,000 normal starts take an hour.

Run as ``python -m tests.faults.process_starter``. Each line of standard input names a part and its
log file; the answer on standard output is the process id. A part runs as under ``codecatch run
PART`` and dies with this process. Two patches add what no environment variable can set: a failpoint
between the broker's pop and the record of the message, and poison events, which kill the process
that handles them.
"""

from __future__ import annotations

import os
import signal
import sys
from datetime import timedelta
from typing import Any

import celery.apps.worker
import celery.concurrency.prefork
import celery.concurrency.thread
import celery.worker.consumer
import uvicorn.loops.uvloop
import uvicorn.protocols.http.httptools_impl
from kombu.transport.redis import QoS

import receiver.web.app
import worker.tasks.tasks
from receiver.events import Event
from receiver.failpoints import reach
from receiver.inbox import spool_drain
from receiver.providers.registry import registry
from worker.handling import effects
from worker.handling import handle as handling
from worker.processes import parts
from worker.runtime import child_process

# Modules that a part would otherwise load only when it starts.
PRELOADED = (celery, uvicorn, receiver.web.app, worker.tasks.tasks, registry())
AFTER_POP = "broker.after_pop"
POISON = "poison"
# The lease of an event in seconds, for tests that would otherwise wait for several full leases.
EVENT_LEASE = "FAULTS_EVENT_LEASE"
# The same for the minute after which a spool that could not be opened is tried again.
REOPEN_SECONDS = "FAULTS_REOPEN_SECONDS"


def main() -> None:
    """Start the parts named on standard input, until it ends."""
    os.environ[child_process.SUPERVISED] = str(os.getpid())
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel reaps the children
    _add_failpoint_after_pop()
    _add_poison_events()
    if EVENT_LEASE in os.environ:
        handling.LEASE = timedelta(seconds=float(os.environ[EVENT_LEASE]))
    if REOPEN_SECONDS in os.environ:
        spool_drain.REOPEN_SECONDS = float(os.environ[REOPEN_SECONDS])
    for line in sys.stdin:
        part, log = line.split()
        child = os.fork()
        if child == 0:
            _run(part, log)
        print(child, flush=True)


def _run(part: str, log: str) -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.setsid()
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    output = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.dup2(output, 1)
    os.dup2(output, 2)
    parts.run(part)
    sys.exit()


def _add_failpoint_after_pop() -> None:
    kombu: Any = QoS  # untyped, and patched here
    record = kombu.append

    def append(self: Any, message: Any, tag: Any) -> None:
        reach(AFTER_POP)
        record(self, message, tag)

    kombu.append = append


def _add_poison_events() -> None:
    apply = effects.apply_one

    def applied(context: Any, rows: Any, header: Any, event: Event) -> Any:
        if getattr(event, "order_id", "").startswith(POISON):
            os._exit(1)
        return apply(context, rows, header, event)

    effects.apply_one = applied


if __name__ == "__main__":
    main()
