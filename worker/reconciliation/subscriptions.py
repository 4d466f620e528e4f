"""Watches webhook subscriptions: a provider stops sending after too many failed deliveries.

Optional (``…_WEBHOOK_CARE=on``). The operators are notified once when deliveries keep failing. A
subscription that the provider has paused for that is resumed, so that deliveries are tried again.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Final

import structlog

from worker.outbox.planner import Planner
from worker.providers.capabilities import HasWebhookSubscriptions, Subscription
from worker.providers.errors import ProviderError, RateLimited
from worker.reconciliation.claim import AttemptResult, Task, WriteResult, succeeded

INTERVAL: Final = timedelta(minutes=5)
NOTIFY_AFTER: Final = 5
_log = structlog.get_logger(__name__)


def check(task: Task) -> WriteResult:
    """Check the subscriptions of this receiver, and resume the paused ones; debit each call.

    Raises:
        OutOfBudget, LeaseLost: see :meth:`worker.reconciliation.claim.Task.debit_call`.
        ProviderError: a call failed.
    """
    client = task.client
    if not isinstance(client, HasWebhookSubscriptions) or task.api.settings.webhook_care != "on":
        return lambda planner: succeeded(planner, None, place=None)
    failing = [each for each in client.subscriptions() if _is_failing(task.row.provider, each)]
    notified = frozenset((task.row.place or "").split())
    notices = {
        each.id: _resume(task, client, each)
        for each in failing
        if each.paused or each.id not in notified
    }

    still_failing = " ".join(sorted(each.id for each in failing)) or None

    def write(planner: Planner) -> AttemptResult:
        operators = task.runtime.policy.routing.operators()
        for subscription, detail in notices.items():
            planner.plan_notice(
                operators, f"subscription:{subscription}", event_id="", detail=detail
            )
        return succeeded(planner, INTERVAL, place=still_failing)

    return write


def _is_failing(provider: str, subscription: Subscription) -> bool:
    """Whether it keeps failing and is ours: the account may have others, for other receivers."""
    ours = subscription.path.rstrip("/").endswith(f"/webhooks/{provider}")
    return ours and subscription.active and subscription.failures >= NOTIFY_AFTER


def _resume(task: Task, client: HasWebhookSubscriptions, subscription: Subscription) -> str:
    """Resume the subscription if it is paused; return the text of the notice."""
    name = task.row.provider
    task.debit_call()
    status = client.last_failure(subscription.id)
    answer = "no answer" if status is None else f"the answer {status}"
    notice = (
        f"{name} could not deliver {subscription.failures} webhooks in a row to its subscription "
        f"{subscription.id}: the last one got {answer}. To check: codecatch doctor"
    )
    if not subscription.paused:
        return notice
    task.debit_call()
    try:
        client.resume(subscription.id)
    except RateLimited:
        raise
    except ProviderError as error:
        return f"{notice}. {name} paused the subscription, and resuming it failed: {error}"
    _log.warning("subscription.resumed", provider=name, failures=subscription.failures)
    return f"{notice}. {name} had paused the subscription; it is resumed"
