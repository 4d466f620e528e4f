"""Calls that a person makes, paid from the budgets that the workers' calls are paid from."""

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
from worker.providers.results import Page, Result
from worker.runtime.integrations import Api

# A budget that is only spent has room again by then; one that the provider blocked may not.
LONGEST_WAIT = call_budgets.WINDOW.total_seconds() + 5.0
Answer = Result | tuple[Result, ...] | Page[Result]


@dataclass(frozen=True, slots=True)
class Caller:
    """Makes the calls of one API; ``waits`` is told until when, if a call has to wait."""

    database: Database
    api: Api
    waits: Callable[[datetime], None]

    def pay(self, call: Call) -> None:
        """Count a call, as soon as it may be made.

        Raises:
            OutOfBudget: that is too long from now.
        """
        deadline = time.monotonic() + LONGEST_WAIT
        told: datetime | None = None
        while (until := self._debit(call)) is not None:
            seconds = until[1].total_seconds()
            if seconds > deadline - time.monotonic():
                raise OutOfBudget(until[0])
            if told is None:
                told = until[0]
                self.waits(told)
            time.sleep(seconds)

    def make(self, call: Call, arguments: Mapping[str, object]) -> Answer:
        """Make a call that was paid for.

        Raises:
            ProviderError: how it failed. After a 429 nobody makes such a call for a time.
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

    def _debit(self, call: Call) -> tuple[datetime, timedelta] | None:
        """None, or when there is room for a call, and how far off that is."""
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
