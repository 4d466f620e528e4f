from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from tests.support.http_server import HttpServer
from tests.support.webhooks import SECRET, TOKEN
from worker.http.client import HttpClient
from worker.providers.daisysim.api import DaisySIM
from worker.providers.virtualsms.api import VirtualSMS
from worker.simulator.server import Simulator

MakeSimulator = Callable[..., Simulator]
MakeVirtualSMS = Callable[..., VirtualSMS]
MakeDaisySIM = Callable[..., DaisySIM]


@pytest.fixture
def make_http() -> Iterator[Callable[[Simulator], HttpClient]]:
    """Make HTTP clients for a simulation, each closed before the simulation ends."""
    with ExitStack() as stack:

        def make(simulator: Simulator) -> HttpClient:
            hosts = [simulator.url.removeprefix("http://")]
            http = HttpClient(allowed_hosts=hosts, plain_http_hosts=hosts, total_timeout=10)
            stack.callback(http.close)
            return http

        yield make


@pytest.fixture
def make_virtualsms(make_http: Callable[[Simulator], HttpClient]) -> MakeVirtualSMS:
    """Make codecatch's own VirtualSMS client for a simulation, with the right key or another."""

    def make(simulator: Simulator, key: str | None = None) -> VirtualSMS:
        variables = simulator.environment
        return VirtualSMS(
            make_http(simulator),
            base_url=variables["VIRTUALSMS_API_URL"],
            api_key=key or variables["VIRTUALSMS_API_KEY"],
        )

    return make


@pytest.fixture
def make_daisysim(make_http: Callable[[Simulator], HttpClient]) -> MakeDaisySIM:
    """Make codecatch's own DaisySIM client for a simulation, with the right key or another."""

    def make(simulator: Simulator, key: str | None = None) -> DaisySIM:
        variables = simulator.environment
        return DaisySIM(
            make_http(simulator),
            base_url=variables["DAISYSIM_API_URL"],
            api_key=key or variables["DAISYSIM_API_KEY"],
        )

    return make


@pytest.fixture
def virtualsms(simulator: Simulator, make_virtualsms: MakeVirtualSMS) -> VirtualSMS:
    """The client for the simulation in the fixture `simulator`."""
    return make_virtualsms(simulator)


@pytest.fixture
def daisysim(simulator: Simulator, make_daisysim: MakeDaisySIM) -> DaisySIM:
    """The client for the simulation in the fixture `simulator`."""
    return make_daisysim(simulator)


@pytest.fixture
def receiver(http_server: HttpServer, monkeypatch: pytest.MonkeyPatch) -> HttpServer:
    """A receiver that accepts everything, with its webhook secrets in the environment."""
    monkeypatch.setenv("VIRTUALSMS_WEBHOOK_SECRETS", SECRET)
    monkeypatch.setenv("DAISYSIM_WEBHOOK_TOKENS", TOKEN)
    http_server.on("POST", "/webhooks/**", status=202, json={"status": "accepted", "event": "E1"})
    return http_server
