"""Delivery threads like those of a ``sender`` process, and the sweep."""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Self
from weakref import WeakKeyDictionary

from receiver.database.engine import Database
from receiver.queue import DELIVER, IDS_PER_MESSAGE, Waker
from worker.delivery import deliver as delivery
from worker.delivery.sender_pool import SenderPool
from worker.destinations.base import Destination, DestinationContext
from worker.messages.text import Notification
from worker.outbox import sweep
from worker.runtime.runtime import Runtime

THREADS = 16
# Runtimes that share a database stand for one process, with one pool of senders.
_POOLS: WeakKeyDictionary[Database, SenderPool] = WeakKeyDictionary()


def deliver_ids(runtime: Runtime, ids: Sequence[str]) -> None:
    """Deliver as the task does, with the senders of the runtime's process, and wait for the end."""
    senders = _POOLS.setdefault(runtime.database, SenderPool())
    for dispatched in delivery.deliver(runtime, ids, senders):
        dispatched.result()


class _ThreadWaker(Waker):
    """A waker without a broker: each queue message is a task for one of the threads."""

    def __init__(self, runtime: Runtime, pool: ThreadPoolExecutor) -> None:
        super().__init__(runtime.waker.app)
        self._runtime = replace(runtime, waker=self)
        self._pool = pool
        self.tasks: list[Future[None]] = []

    def wake(self, task: str, ids: Iterable[str], *, group: str = "") -> None:
        rows, size = list(ids), IDS_PER_MESSAGE[DELIVER]
        assert task == DELIVER or not rows
        for start in range(0, len(rows), size):
            self._submit(rows[start : start + size])

    def _submit(self, ids: Sequence[str]) -> None:
        self.tasks.append(self._pool.submit(deliver_ids, self._runtime, ids))


@dataclass
class Script:
    """A destination's errors, one for each message; later messages succeed."""

    answers: list[Exception] = field(default_factory=list)
    sent: list[tuple[list[Notification], list[str] | None]] = field(default_factory=list)
    """Each message, and the recipients that it was for."""


class Scripted(Destination):
    """A destination that follows a script."""

    deadline = 7.0
    kind = "scripted"
    max_batch = 40

    def __init__(self, name: str, script: Script, recipients: Sequence[str] = ()) -> None:
        super().__init__(name)
        self.script = script
        self.recipients = tuple(recipients)

    @classmethod
    def make(cls, name: str, options: object, context: DestinationContext) -> Self:
        """Unused: no configuration names this kind."""
        raise NotImplementedError

    def send(
        self, notifications: Sequence[Notification], *, only: Collection[str] | None = None
    ) -> None:
        """Note the message; raise the next error."""
        self.script.sent.append((list(notifications), None if only is None else list(only)))
        if self.script.answers:
            raise self.script.answers.pop(0)


@contextmanager
def sending(runtime: Runtime, *, every: float = 1.0, threads: int = THREADS) -> Iterator[Waker]:
    """Deliver woken rows, and sweep every ``every`` seconds; yields the waker."""
    over = threading.Event()
    with ThreadPoolExecutor(threads) as pool:
        waker = _ThreadWaker(runtime, pool)

        def tick() -> None:
            while not over.wait(every):
                sweep.sweep(runtime.database, waker)

        clock = threading.Thread(target=tick)
        clock.start()
        try:
            yield waker
        finally:
            over.set()
            clock.join()
    for task in waker.tasks:
        task.result()
