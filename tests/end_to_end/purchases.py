"""Numbers bought from the simulated providers, as the command buys them: by the API, recorded."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any
from unittest import mock

from receiver import clock
from tests.support.stores import Store
from worker.calls import record as call_record
from worker.providers.base import ProviderApi
from worker.providers.reported_order import ReportedOrder
from worker.providers.results import Result
from worker.runtime.integrations import connected_api
from worker.simulator.catalogue import COUNTRIES, SERVICES
from worker.simulator.server import Upstream

# Lets a code reach the number of an order.
Deliver = Callable[[str, str], object]


def buy(
    upstream: Upstream,
    store: Store,
    environment: Mapping[str, str],
    *,
    virtualsms: int = 0,
    daisysim: int = 0,
) -> dict[str, Deliver]:
    """Buy so many numbers of each; how a code reaches each of the orders."""
    country = next(country for country in COUNTRIES if country.iso2 == "GB")
    bought: dict[str, Deliver] = {}
    with mock.patch.dict(os.environ, environment), ExitStack() as stack:
        apis = {
            name: stack.enter_context(connected_api(name)).client
            for name in ("virtualsms", "daisysim")
        }
        for place in range(virtualsms):
            sold = SERVICES[place % len(SERVICES)]
            asked: dict[str, Any] = {"service": sold.id, "country": country.iso2}
            order = _made(store, apis["virtualsms"], "create_order", asked)
            bought[order] = upstream.virtualsms.deliver
        for place in range(daisysim):
            sold = SERVICES[place % len(SERVICES)]
            price = upstream.daisysim.prices(sold, country)[0]
            asked = {"country": country.id, "service": sold.code, "price": price}
            order = _made(store, apis["daisysim"], "purchase", asked)
            bought[order] = upstream.daisysim.deliver
    return bought


def _made(store: Store, client: ProviderApi, name: str, asked: Mapping[str, Any]) -> str:
    at = clock.now()
    answer = getattr(client, name)(**asked)
    assert isinstance(answer, Result)
    reported = answer.about_order(asked)
    assert isinstance(reported, ReportedOrder)
    with store.database.transaction() as session:
        now = store.database.now(session)
        call_record.record(
            session, store.vault, client, client.calls[name], reported, asked_at=at, now=now
        )
    return reported.order_id
