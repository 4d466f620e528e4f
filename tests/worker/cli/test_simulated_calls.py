"""Every call as a command against the simulated providers, which validate it.

The requests are written as in the two API documents.
"""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from tests.support.stores import Store
from tests.worker.cli.conftest import Run
from tests.worker.support import all_rows, on_sqlite
from worker.providers.daisysim.api import DaisySIM
from worker.providers.virtualsms.api import VirtualSMS
from worker.schema.models import Order
from worker.simulator.call_log import ApiCall
from worker.simulator.server import DAISYSIM_KEY, VIRTUALSMS_KEY, Simulator

KEYS = {"virtualsms": VIRTUALSMS_KEY, "daisysim": DAISYSIM_KEY}
# What the transport adds to any request.
_TRANSPORT = {"host", "connection", "accept-encoding", "content-length", "user-agent"}


@dataclass(frozen=True, slots=True)
class Step:
    """A command, its request and the status of the answer; ``{}`` stands for the order's id.

    ``keeps``: the printed id is the order's id from now on.
    """

    words: str
    request: str
    body: str = ""
    status: int = 200
    keeps: bool = False


VIRTUALSMS = (
    Step("list-services", "GET /api/v2/services"),
    Step("list-countries", "GET /api/v2/countries"),
    Step("find-cheapest telegram", "GET /api/v2/services/telegram/cheapest"),
    Step("country-pricing GB", "GET /api/v2/countries/GB/pricing"),
    Step("service-availability telegram", "GET /api/v2/services/telegram/availability"),
    Step("get-profile", "GET /api/v2/me"),
    Step("get-balance", "GET /api/v2/me/balance"),
    Step("get-stats", "GET /api/v2/me/stats"),
    Step(
        "create-order telegram GB --yes --id",
        "POST /api/v2/orders",
        '{"service":"telegram","country":"GB"}',
        status=201,
        keeps=True,
    ),
    Step("list-transactions --page 1 --limit 5", "GET /api/v2/me/transactions?page=1&limit=5"),
    Step("list-orders", "GET /api/v2/orders"),
    Step("get-order {}", "GET /api/v2/orders/{}"),
    Step("swap-order {} --yes", "POST /api/v2/orders/{}/swap"),
    Step("cancel-order {} --yes", "POST /api/v2/orders/{}/cancel"),
    Step(
        "create-order whatsapp US --rental-hours 4 --yes --id",
        "POST /api/v2/orders",
        '{"service":"whatsapp","country":"US","rental_hours":4}',
        status=201,
        keeps=True,
    ),
    Step("extend-rental {} 12 --yes", "POST /api/v2/orders/{}/extend", '{"hours":12}'),
    Step("wait-for-sms {}", "GET /api/v2/orders/{}/sms"),
    Step("confirm-order {} --yes", "POST /api/v2/orders/{}/confirm"),
    Step(
        "create-order signal FR --rental-hours 1 --yes --id",
        "POST /api/v2/orders",
        '{"service":"signal","country":"FR","rental_hours":1}',
        status=201,
        keeps=True,
    ),
    Step("release-rental {} --yes", "POST /api/v2/orders/{}/release"),
)
DAISYSIM = (
    Step("balance", "GET /api/v1/virtual/balance"),
    Step("countries", "GET /api/v1/virtual/countries"),
    Step("services 16", "GET /api/v1/virtual/services/16"),
    Step("prices 16 wa", "POST /api/v1/virtual/prices", '{"country":16,"service":"wa"}'),
    Step(
        "purchase 16 wa 0.5500 --service-name WhatsApp --yes --id",
        "POST /api/v1/virtual/purchase",
        '{"country":16,"service":"wa","price":0.5500,"service_name":"WhatsApp"}',
        status=201,
        keeps=True,
    ),
    Step("check {}", "GET /api/v1/virtual/check/{}"),
    Step("cancel {} --yes", "POST /api/v1/virtual/cancel/{}"),
    Step(
        "history --page 1 --per-page 100 --status cancelled",
        "GET /api/v1/virtual/history?page=1&per_page=100&status=cancelled",
    ),
)


@pytest.fixture(autouse=True)
def _configured(simulator: Simulator, monkeypatch: pytest.MonkeyPatch) -> None:
    """Point the commands to the simulator."""
    for name, value in simulator.environment.items():
        monkeypatch.setenv(name, value)


def check(call: ApiCall, step: Step, order: str, provider: str) -> None:
    """Assert that a request matches the document exactly and was accepted."""
    assert call.line == f"{step.request.replace('{}', order)} HTTP/1.1"
    assert call.body.decode() == step.body
    wanted = {"authorization": f"Bearer {KEYS[provider]}", "accept": "application/json"}
    if step.body:
        wanted["content-type"] = "application/json"
    own = {name: value for name, value in call.headers.items() if name not in _TRANSPORT}
    assert own == wanted
    assert call.status == step.status


def drive(run: Run, simulator: Simulator, provider: str, step: Step, order: str) -> str:
    """Run one command and check its request; returns the id of the current order."""
    before = len(simulator.calls())
    answer = run(provider, *step.words.replace("{}", order).split())
    assert answer.code == 0, answer.err
    (call,) = simulator.calls()[before:]
    check(call, step, order, provider)
    return answer.out.strip() if step.keeps else order


def test_all_calls_are_driven() -> None:
    """All eighteen calls of one document and all eight of the other."""
    for steps, api, count in ((VIRTUALSMS, VirtualSMS, 18), (DAISYSIM, DaisySIM, 8)):
        driven = {step.words.split()[0].replace("-", "_") for step in steps}
        assert driven == set(api.calls)
        assert len(driven) == count


@on_sqlite
def test_virtualsms(run: Run, store: Store, simulator: Simulator) -> None:
    """Each command sends the one documented request, and its answer is accepted."""
    order = ""
    for step in VIRTUALSMS:
        if step.words.startswith("wait-for-sms"):
            simulator.virtualsms.deliver(order, "482913")
        order = drive(run, simulator, "virtualsms", step, order)
    bought = {row.order_id: row.status for row in all_rows(store, Order)}
    assert bought.keys() == simulator.virtualsms.orders.keys()
    assert list(bought.values()) == ["cancelled", "confirmed", "waiting"]
    assert simulator.virtualsms.orders[order].status == "confirmed"


@on_sqlite
def test_daisysim(run: Run, store: Store, simulator: Simulator) -> None:
    """Likewise; the price is sent back with every digit."""
    order = ""
    for step in DAISYSIM:
        if step.words.startswith("cancel"):
            simulator.advance(61)
        order = drive(run, simulator, "daisysim", step, order)
    (bought,) = all_rows(store, Order)
    assert (bought.order_id, bought.status, bought.price) == (order, "cancelled", "0.5500")
    assert simulator.daisysim.activations[order].status == "Cancelled"
