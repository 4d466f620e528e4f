from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from tests.support.http_server import HttpServer
from tests.support.webhooks import SECRET, TOKEN
from worker.http.client import HttpClient
from worker.providers.daisysim.api import DaisySIM
from worker.providers.virtualsms.api import VirtualSMS
from worker.simulator.server import Upstream

Make = Callable[..., Upstream]
AskVirtualSMS = Callable[..., VirtualSMS]
AskDaisySIM = Callable[..., DaisySIM]


@pytest.fixture
def make_http() -> Iterator[Callable[[Upstream], HttpClient]]:
    """Make clients that may ask a simulation, each closed before it is."""
    with ExitStack() as stack:

        def make(upstream: Upstream) -> HttpClient:
            hosts = [upstream.url.removeprefix("http://")]
            http = HttpClient(allowed_hosts=hosts, plain_http_hosts=hosts, total_timeout=10)
            stack.callback(http.close)
            return http

        yield make


@pytest.fixture
def ask_virtualsms(make_http: Callable[[Upstream], HttpClient]) -> AskVirtualSMS:
    """The client that codecatch has for the VirtualSMS of a simulation, with its key or another."""

    def make(upstream: Upstream, key: str | None = None) -> VirtualSMS:
        there = upstream.environment
        return VirtualSMS(
            make_http(upstream),
            base_url=there["VIRTUALSMS_API_URL"],
            api_key=key or there["VIRTUALSMS_API_KEY"],
        )

    return make


@pytest.fixture
def ask_daisysim(make_http: Callable[[Upstream], HttpClient]) -> AskDaisySIM:
    """The client that codecatch has for the DaisySIM of a simulation, with its key or another."""

    def make(upstream: Upstream, key: str | None = None) -> DaisySIM:
        there = upstream.environment
        return DaisySIM(
            make_http(upstream),
            base_url=there["DAISYSIM_API_URL"],
            api_key=key or there["DAISYSIM_API_KEY"],
        )

    return make


@pytest.fixture
def virtualsms(upstream: Upstream, ask_virtualsms: AskVirtualSMS) -> VirtualSMS:
    """The client for the simulation of the fixture `upstream`."""
    return ask_virtualsms(upstream)


@pytest.fixture
def daisysim(upstream: Upstream, ask_daisysim: AskDaisySIM) -> DaisySIM:
    """The client for the simulation of the fixture `upstream`."""
    return ask_daisysim(upstream)


@pytest.fixture
def receiver(http_server: HttpServer, monkeypatch: pytest.MonkeyPatch) -> HttpServer:
    """A receiver that takes everything, and the environment in which it can tell what is real."""
    monkeypatch.setenv("VIRTUALSMS_WEBHOOK_SECRETS", SECRET)
    monkeypatch.setenv("DAISYSIM_WEBHOOK_TOKENS", TOKEN)
    http_server.on("POST", "/webhooks/**", status=202, json={"status": "accepted", "event": "E1"})
    return http_server
