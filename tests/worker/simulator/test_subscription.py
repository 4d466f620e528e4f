"""VirtualSMS's webhook subscription, managed by codecatch's own client."""

from __future__ import annotations

import pytest

from tests.support.http_server import HttpServer
from tests.support.waiting import eventually
from tests.worker.simulator.conftest import MakeSimulator, MakeVirtualSMS
from worker.providers.capabilities import HasWebhookSubscriptions
from worker.providers.errors import Unauthorized


def test_a_paused_subscription_is_found_and_resumed(
    make_simulator: MakeSimulator, receiver: HttpServer, make_virtualsms: MakeVirtualSMS
) -> None:
    """The client sees the pause and its failures, and resumes the subscription."""
    receiver.on("POST", "/webhooks/**", status=503)
    simulator = make_simulator(receiver.url)
    api = make_virtualsms(simulator)
    assert isinstance(api, HasWebhookSubscriptions)
    orders = [simulator.virtualsms.create("telegram", "GB").order_id for _ in range(21)]
    for order in orders[:20]:
        simulator.virtualsms.deliver(order)
    eventually(lambda: simulator.subscription.paused)
    (found,) = api.subscriptions()
    assert (found.path, found.active, found.paused) == ("/webhooks/virtualsms", True, True)
    assert found.failures == 20
    assert api.last_failure(found.id) == 503

    receiver.on("POST", "/webhooks/**", status=202)
    api.resume(found.id)
    (found,) = api.subscriptions()
    assert (found.paused, found.failures) == (False, 0)
    simulator.virtualsms.deliver(orders[20])
    eventually(lambda: len(receiver.requests()) == 21)

    with pytest.raises(Unauthorized):
        make_virtualsms(simulator, "sk_live_another").subscriptions()
