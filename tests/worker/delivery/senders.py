"""Many threads that deliver, as one ``sender`` process has them, with the sweep beside them."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from weakref import WeakKeyDictionary

from receiver.database.engine import Database
from receiver.queue import DELIVER, IDS_PER_MESSAGE, Waker
from worker.delivery import deliver as delivery
from worker.delivery.sender_pool import SenderPool
from worker.outbox import sweep
from worker.runtime.runtime import Runtime

THREADS = 16
# Runtimes that share a database are one process's, with one pool of senders.
_POOLS: WeakKeyDictionary[Database, SenderPool] = WeakKeyDictionary()


def deliver_ids(made: Runtime, ids: Sequence[str]) -> None:
    """Deliver as the task does, with the senders of the runtime's process."""
    senders = _POOLS.setdefault(made.database, SenderPool())
    delivery.deliver(made, ids, senders)


class _Hands(Waker):
    """Wake-up calls without a broker between: each message is a task for one of the threads."""

    def __init__(self, made: Runtime, pool: ThreadPoolExecutor) -> None:
        super().__init__(made.waker.app)
        self._made = replace(made, waker=self)
        self._pool = pool
        self.tasks: list[Future[None]] = []

    def wake(self, task: str, ids: Iterable[str], *, group: str = "") -> None:
        rows, size = list(ids), IDS_PER_MESSAGE[DELIVER]
        assert task == DELIVER or not rows
        for start in range(0, len(rows), size):
            self._submit(rows[start : start + size])

    def _submit(self, ids: Sequence[str]) -> None:
        self.tasks.append(self._pool.submit(deliver_ids, self._made, ids))


@contextmanager
def sending(made: Runtime, *, every: float = 1.0, threads: int = THREADS) -> Iterator[Waker]:
    """Deliver what is woken, and sweep ``every`` so many seconds; yields whom to wake."""
    over = threading.Event()
    with ThreadPoolExecutor(threads) as pool:
        hands = _Hands(made, pool)

        def tick() -> None:
            while not over.wait(every):
                sweep.sweep(made.database, hands)

        clock = threading.Thread(target=tick)
        clock.start()
        try:
            yield hands
        finally:
            over.set()
            clock.join()
    for task in hands.tasks:
        task.result()
