"""Buys numbers from the simulated providers, as the command does: by API, then recorded."""

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
from worker.simulator.server import Simulator

# Delivers a code to the number of an order.
Deliver = Callable[[str, str], object]


def buy(
    simulator: Simulator,
    store: Store,
    environment: Mapping[str, str],
    *,
    virtualsms: int = 0,
    daisysim: int = 0,
) -> dict[str, Deliver]:
    """Buy numbers of each provider; returns, by order id, the function that delivers a code."""
    country = next(country for country in COUNTRIES if country.iso2 == "GB")
    bought: dict[str, Deliver] = {}
    with mock.patch.dict(os.environ, environment), ExitStack() as stack:
        apis = {
            name: stack.enter_context(connected_api(name)).client
            for name in ("virtualsms", "daisysim")
        }
        for index in range(virtualsms):
            service = SERVICES[index % len(SERVICES)]
            arguments: dict[str, Any] = {"service": service.id, "country": country.iso2}
            order = _buy(store, apis["virtualsms"], "create_order", arguments)
            bought[order] = simulator.virtualsms.deliver
        for index in range(daisysim):
            service = SERVICES[index % len(SERVICES)]
            price = simulator.daisysim.prices(service, country)[0]
            arguments = {"country": country.id, "service": service.code, "price": price}
            order = _buy(store, apis["daisysim"], "purchase", arguments)
            bought[order] = simulator.daisysim.deliver
    return bought


def _buy(store: Store, client: ProviderApi, name: str, arguments: Mapping[str, Any]) -> str:
    asked_at = clock.now()
    answer = getattr(client, name)(**arguments)
    assert isinstance(answer, Result)
    reported = answer.as_reported_order(arguments)
    assert isinstance(reported, ReportedOrder)
    with store.database.transaction() as session:
        now = store.database.now(session)
        call_record.record(
            session, store.vault, client, client.calls[name], reported, asked_at=asked_at, now=now
        )
    return reported.order_id
