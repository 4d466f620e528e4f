"""Starts parts by forking a process that has loaded them: a thousand starts would take an hour.

Run as ``python -m tests.faults.nursery``: it reads the name of a part and of its log file on each
line, and writes the process id. A part is what ``codecatch run PART`` runs, and dies with this
process. Two things are done to it that no environment variable can do: a point between the
broker's pop and the note that the message is out, and events that kill whoever handles them.
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
from receiver.providers.registry import registry
from worker.handling import effects
from worker.handling import handle as handling
from worker.processes import parts
from worker.runtime import child_process

# What a part needs and would load only when it starts.
LOADED = (celery, uvicorn, receiver.web.app, worker.tasks.tasks, registry())
AFTER_POP = "broker.after_pop"
POISON = "poison"
# In seconds, for tests that cannot wait for five of them.
EVENT_LEASE = "FAULTS_EVENT_LEASE"


def main() -> None:
    """Start what is asked for until standard input ends."""
    os.environ[child_process.SUPERVISED] = str(os.getpid())
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for them
    _reach_between_pop_and_note()
    _die_of_poison()
    if EVENT_LEASE in os.environ:
        handling.LEASE = timedelta(seconds=float(os.environ[EVENT_LEASE]))
    for line in sys.stdin:
        part, log = line.split()
        child = os.fork()
        if child == 0:
            _become(part, log)
        print(child, flush=True)


def _become(part: str, log: str) -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.setsid()
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    output = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.dup2(output, 1)
    os.dup2(output, 2)
    parts.run(part)
    sys.exit()


def _reach_between_pop_and_note() -> None:
    kombu: Any = QoS  # untyped, and to be changed
    note = kombu.append

    def append(self: Any, message: Any, tag: Any) -> None:
        reach(AFTER_POP)
        note(self, message, tag)

    kombu.append = append


def _die_of_poison() -> None:
    apply = effects.apply_one

    def applied(context: Any, known: Any, stub: Any, event: Event) -> Any:
        if getattr(event, "order_id", "").startswith(POISON):
            os._exit(1)
        return apply(context, known, stub, event)

    effects.apply_one = applied


if __name__ == "__main__":
    main()
