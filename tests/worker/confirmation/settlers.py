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

from sqlalchemy.exc import SQLAlchemyError
from sqlmodel import col, select

from receiver.database.followup import GRACE
from worker.confirmation.confirm import settle as settle_ids
from worker.outbox import call_budgets
from worker.outbox.call_budgets import budget_key
from worker.runtime.runtime import Runtime, connect
from worker.schema.models import Confirmation

_PAUSE = 0.1
_MOST_SECONDS = 90.0


class ProcessGroup:
    """Processes that each run one of this module's jobs until the context is left."""

    def __init__(self, environment: Mapping[str, str], window: float) -> None:
        self._context = multiprocessing.get_context("forkserver")
        # Preloaded, or each child would import its main module again.
        self._context.set_forkserver_preload([__name__, "pytest.__main__"])
        self._environment, self._window = dict(environment), window
        self._over = self._context.Event()
        self._processes: list[ForkServerProcess] = []

    def add(self, job: str, count: int = 1) -> None:
        """Start ``count`` more processes for ``job``."""
        for _ in range(count):
            args = (job, self._environment, self._window, self._over)
            process = self._context.Process(target=_work, args=args, daemon=True)
            process.start()
            self._processes.append(process)

    def __enter__(self) -> ProcessGroup:
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
    # The only difference from an installation: the window is shorter than a minute.
    call_budgets.WINDOW = timedelta(seconds=window) + (call_budgets.WINDOW - timedelta(seconds=60))
    runtime = connect()
    parent = multiprocessing.parent_process()
    last = time.monotonic() + _MOST_SECONDS
    try:
        while not over.is_set() and time.monotonic() < last and parent and parent.is_alive():
            # A busy database fails a task, and its rows are woken again.
            with contextlib.suppress(SQLAlchemyError):
                if _JOBS[job](runtime):
                    continue
            over.wait(_PAUSE)
    finally:
        runtime.close()


def _settle(runtime: Runtime) -> bool:
    """Settle due rows, as a woken sender does; return whether there were any."""
    with runtime.database.reading() as session:
        due = session.exec(
            select(Confirmation.id).where(
                col(Confirmation.wake_at) <= runtime.database.now(session) + GRACE,
                col(Confirmation.lease_until).is_(None),
            )
        ).all()
    settle_ids(runtime, random.sample(due, min(4, len(due))))
    return bool(due)


def _poll(runtime: Runtime) -> bool:
    """Make a less urgent call, which is allowed while half of the budget is left."""
    api = runtime.integrations.apis["virtualsms"]
    limit = api.limit("calls")
    with runtime.database.transaction() as session:
        budget = call_budgets.lock(session, budget_key("virtualsms", "calls"))
        now = runtime.database.now(session)
        if call_budgets.available_at(budget, limit - limit // 2, now) > now:
            return False
        call_budgets.debit(budget, now)
    api.client.get_order("ord_polled")  # type: ignore[attr-defined]
    return True


_JOBS = {"settle": _settle, "poll": _poll}
