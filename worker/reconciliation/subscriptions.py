"""Care for the webhook subscription: a provider that cannot deliver stops trying.

Optional (``…_WEBHOOK_CARE=on``). The operators are told once when deliveries fail in a row; a
subscription that the provider has paused for it is un-paused, and so is tried again.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Final

import structlog

from worker.outbox.planner import Planner
from worker.providers.capabilities import Subscribes, Subscription
from worker.providers.errors import ProviderError, RateLimited
from worker.reconciliation.claim import Next, Record, Task, well

EVERY: Final = timedelta(minutes=5)
WARN_AFTER: Final = 5
_log = structlog.get_logger(__name__)


def look(task: Task) -> Record:
    """How the subscriptions to this receiver fare; each call is paid for.

    Raises:
        OutOfBudget, LeaseLost: see :meth:`worker.reconciliation.claim.Task.pay_again`.
        ProviderError: the provider did not say.
    """
    client = task.client
    if not isinstance(client, Subscribes) or task.api.settings.webhook_care != "on":
        return lambda planner: well(planner, None, place=None)
    failing = [each for each in client.subscriptions() if _is_failing(task.row.provider, each)]
    warned = frozenset((task.row.place or "").split())
    notices = {
        each.id: _tend(task, client, each)
        for each in failing
        if each.paused or each.id not in warned
    }

    still = " ".join(sorted(each.id for each in failing)) or None

    def write(planner: Planner) -> Next:
        operators = task.runtime.policy.routing.operators()
        for subscription, detail in notices.items():
            planner.notice(operators, f"subscription:{subscription}", event_id="", detail=detail)
        return well(planner, EVERY, place=still)

    return write


def _is_failing(provider: str, subscription: Subscription) -> bool:
    """Whether it fails, and is one of ours: the account may have others, for other receivers."""
    ours = subscription.path.rstrip("/").endswith(f"/webhooks/{provider}")
    return ours and subscription.active and subscription.failures >= WARN_AFTER


def _tend(task: Task, client: Subscribes, subscription: Subscription) -> str:
    """Un-pause it if it is paused; what the operators are told."""
    name = task.row.provider
    task.pay_again()
    status = client.last_failure(subscription.id)
    answer = "no answer" if status is None else f"the answer {status}"
    told = (
        f"{name} could not deliver {subscription.failures} webhooks in a row to its subscription "
        f"{subscription.id}: the last one got {answer}. Look: codecatch doctor"
    )
    if not subscription.paused:
        return told
    task.pay_again()
    try:
        client.resume(subscription.id)
    except RateLimited:
        raise
    except ProviderError as error:
        return f"{told}. It has stopped sending, and could not be told to go on: {error}"
    _log.warning("subscription.resumed", provider=name, failures=subscription.failures)
    return f"{told}. It had stopped sending; it was told to go on"
