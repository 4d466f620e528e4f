"""Calls made by a person. They share their budgets with the workers' calls."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from receiver.database.engine import Database, persist
from worker.outbox import call_budgets
from worker.outbox.call_budgets import RATE_LIMIT_PAUSE, OutOfBudget, budget_key
from worker.providers.base import Call
from worker.providers.errors import RateLimited
from worker.providers.results import Page, Result, Rows
from worker.runtime.integrations import Api

# A used-up budget has room again by then; a budget that the provider blocked may not.
LONGEST_WAIT = call_budgets.WINDOW.total_seconds() + 5.0
Answer = Result | Rows[Result] | Page[Result]


@dataclass(frozen=True, slots=True)
class Caller:
    """Makes calls of one API.

    ``on_wait`` is called once with the time until which a call has to wait for its budget.
    """

    database: Database
    api: Api
    on_wait: Callable[[datetime], None]

    def debit(self, call: Call) -> None:
        """Debit a call; wait until its budget allows it.

        Raises:
            OutOfBudget: that would take longer than :data:`LONGEST_WAIT` seconds.
        """
        deadline = time.monotonic() + LONGEST_WAIT
        has_waited = False
        while (refused := self._try_debit(call)) is not None:
            until, pause = refused
            seconds = pause.total_seconds()
            if seconds > deadline - time.monotonic():
                raise OutOfBudget(until)
            if not has_waited:
                has_waited = True
                self.on_wait(until)
            time.sleep(seconds)

    def make(self, call: Call, arguments: Mapping[str, object]) -> Answer:
        """Make a debited call.

        Raises:
            ProviderError: the call failed. A 429 also blocks the budget for every process.
        """
        try:
            answer: Answer = getattr(self.api.client, call.name)(**arguments)
        except RateLimited as error:
            seconds = error.retry_after or RATE_LIMIT_PAUSE
            persist(lambda: self._block(call, timedelta(seconds=seconds)))
            raise
        return answer

    def _key(self, call: Call) -> tuple[str, str]:
        budget = self.api.budget_of(call.name)
        return budget_key(self.api.client.name, budget), budget

    def _try_debit(self, call: Call) -> tuple[datetime, timedelta] | None:
        """Debit a call and return None, or return when it is allowed, and in how long."""
        key, name = self._key(call)
        with self.database.transaction() as session:
            now = self.database.now(session)
            budget = call_budgets.lock(session, key)
            until = call_budgets.available_at(budget, self.api.limit(name), now)
            if until > now:
                return until, until - now
            call_budgets.debit(budget, now)
            return None

    def _block(self, call: Call, pause: timedelta) -> None:
        with self.database.transaction() as session:
            call_budgets.block(session, self._key(call)[0], self.database.now(session) + pause)
