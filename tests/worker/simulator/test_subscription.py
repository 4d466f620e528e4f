"""VirtualSMS's webhook subscription, cared for by the client that will meet the real one."""

from __future__ import annotations

import pytest

from tests.support.http_server import HttpServer
from tests.support.waiting import eventually
from tests.worker.simulator.conftest import AskVirtualSMS, Make
from worker.providers.capabilities import Subscribes
from worker.providers.errors import Unauthorized


def test_a_paused_subscription_is_found_and_resumed(
    make_upstream: Make, receiver: HttpServer, ask_virtualsms: AskVirtualSMS
) -> None:
    """How it fares, what the last delivery was answered, and webhooks again once it is resumed."""
    receiver.on("POST", "/webhooks/**", status=503)
    upstream = make_upstream(receiver.url)
    api = ask_virtualsms(upstream)
    assert isinstance(api, Subscribes)
    orders = [upstream.virtualsms.create("telegram", "GB").order_id for _ in range(21)]
    for order in orders[:20]:
        upstream.virtualsms.deliver(order)
    eventually(lambda: upstream.subscription.paused)
    (found,) = api.subscriptions()
    assert (found.path, found.active, found.paused) == ("/webhooks/virtualsms", True, True)
    assert found.failures == 20
    assert api.last_failure(found.id) == 503

    receiver.on("POST", "/webhooks/**", status=202)
    api.resume(found.id)
    (found,) = api.subscriptions()
    assert (found.paused, found.failures) == (False, 0)
    upstream.virtualsms.deliver(orders[20])
    eventually(lambda: len(receiver.requests()) == 21)

    with pytest.raises(Unauthorized):
        ask_virtualsms(upstream, "sk_live_another").subscriptions()
