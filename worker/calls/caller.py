"""Calls made by a person. They share their budgets with the workers' calls."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from receiver.database.engine import Database, persist
from worker.outbox import call_budgets
from worker.outbox.call_budgets import OutOfBudget, budget_key
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
        while True:
            try:
                return self._pay(call)
            except OutOfBudget as refused:
                seconds = refused.pause.total_seconds()
                if seconds > deadline - time.monotonic():
                    raise
                if not has_waited:
                    has_waited = True
                    self.on_wait(refused.until)
            time.sleep(seconds)

    def make(self, call: Call, arguments: Mapping[str, object]) -> Answer:
        """Make a debited call.

        Raises:
            ProviderError: the call failed. A 429 also blocks the budget for every process.
        """
        try:
            answer: Answer = getattr(self.api.client, call.name)(**arguments)
        except RateLimited as error:
            pause = error.pause
            persist(lambda: self._block(call, pause))
            raise
        return answer

    def _key(self, call: Call) -> tuple[str, str]:
        budget = self.api.budget_of(call.name)
        return budget_key(self.api.client.name, budget), budget

    def _pay(self, call: Call) -> None:
        key, budget = self._key(call)
        with self.database.transaction() as session:
            call_budgets.pay(session, self.database, key, self.api.limit(budget))

    def _block(self, call: Call, pause: timedelta) -> None:
        with self.database.transaction() as session:
            call_budgets.block(session, self._key(call)[0], self.database.now(session) + pause)
