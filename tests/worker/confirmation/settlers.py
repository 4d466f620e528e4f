"""Processes that share one provider's budget, forked from a server that has imported everything."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import random
import time
from collections.abc import Mapping
from datetime import timedelta
from multiprocessing.context import ForkServerProcess
from multiprocessing.synchronize import Event

from sqlmodel import col, select

from receiver.database.engine import TROUBLE
from receiver.database.followup import GRACE
from worker.confirmation import confirm as confirmation
from worker.outbox import call_budgets
from worker.outbox.call_budgets import budget_key
from worker.runtime import runtime
from worker.runtime.runtime import Runtime
from worker.schema.models import Confirmation

_PAUSE = 0.1
_MOST_SECONDS = 90.0


class Crew:
    """Processes that run one of this module's jobs until the crew is left."""

    def __init__(self, environment: Mapping[str, str], window: float) -> None:
        self._context = multiprocessing.get_context("forkserver")
        # The module that a child finds as its main one would be imported by each otherwise.
        self._context.set_forkserver_preload([__name__, "pytest.__main__"])
        self._environment, self._window = dict(environment), window
        self._over = self._context.Event()
        self._processes: list[ForkServerProcess] = []

    def add(self, job: str, count: int = 1) -> None:
        """Start ``count`` more processes that do ``job``."""
        for _ in range(count):
            args = (job, self._environment, self._window, self._over)
            process = self._context.Process(target=_work, args=args, daemon=True)
            process.start()
            self._processes.append(process)

    def __enter__(self) -> Crew:
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for process in self._processes:
            process.join(10)
            if process.is_alive():
                process.kill()
            process.join()
        assert {process.exitcode for process in self._processes} == {0}


def _work(job: str, environment: Mapping[str, str], window: float, over: Event) -> None:
    os.environ.update(environment)
    # The only thing that is not as an installation has it: nobody waits for whole minutes.
    call_budgets.WINDOW = timedelta(seconds=window) + (call_budgets.WINDOW - timedelta(seconds=60))
    made = runtime.connect()
    parent = multiprocessing.parent_process()
    last = time.monotonic() + _MOST_SECONDS
    try:
        while not over.is_set() and time.monotonic() < last and parent and parent.is_alive():
            # A database that is too busy fails a task, whose rows are woken again.
            with contextlib.suppress(*TROUBLE):
                if _JOBS[job](made):
                    continue
            over.wait(_PAUSE)
    finally:
        made.close()


def _settle(made: Runtime) -> bool:
    """Settle what is due, as a sender does that is woken for it; whether there was any."""
    with made.database.reading() as session:
        due = session.exec(
            select(Confirmation.id).where(
                col(Confirmation.wake_at) <= made.database.now(session) + GRACE,
                col(Confirmation.lease_until).is_(None),
            )
        ).all()
    confirmation.settle(made, random.sample(due, min(4, len(due))))
    return bool(due)


def _look(made: Runtime) -> bool:
    """Ask about some order while half of the budget is left, as what is less urgent may."""
    api = made.integrations.apis["virtualsms"]
    limit = api.limit("calls")
    with made.database.transaction() as session:
        budget = call_budgets.lock(session, budget_key("virtualsms", "calls"))
        now = made.database.now(session)
        if call_budgets.available_at(budget, limit - limit // 2, now) > now:
            return False
        call_budgets.debit(budget, now)
    api.client.get_order("ord_looked_at")  # type: ignore[attr-defined]
    return True


_JOBS = {"settle": _settle, "look": _look}
