"""Metrics from the database, for requests with the admin token."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from httpx2 import Response
from prometheus_client.parser import text_string_to_metric_families
from starlette.testclient import TestClient

from receiver.database import heartbeats
from receiver.errors import ConfigurationError
from receiver.inbox import store as inbox
from receiver.inbox.spool import Spool
from tests.support import webhooks
from tests.support.postgres import PostgresServer
from tests.support.stores import prepare
from tests.worker.support import World, all_rows, deliver, handle, incoming, now, receive
from worker.admin.app import create_app
from worker.schema.models import Delivery

TOKEN = "made-up-admin-token"
AUTHORIZED = {b"Authorization": f"Bearer {TOKEN}".encode()}
Get = Callable[..., Response]
Scrape = Callable[[], dict[tuple[str, tuple[str, ...]], float]]


@pytest.fixture
def get(monkeypatch: pytest.MonkeyPatch) -> Get:
    """Request the metrics of a database from the admin application."""

    def request(url: str, headers: Mapping[bytes, bytes] = AUTHORIZED) -> Response:
        monkeypatch.setenv("ADMIN_TOKEN", TOKEN)
        monkeypatch.setenv("DATABASE_URL", url)
        with TestClient(create_app()) as client:
            return client.get("/metrics", headers=headers)

    return request


@pytest.fixture
def scrape(world: World, get: Get) -> Scrape:
    """Request the metrics: each value by its name and the values of its labels."""

    def read() -> dict[tuple[str, tuple[str, ...]], float]:
        response = get(world.store.url)
        assert response.status_code == 200
        assert response.headers["content-type"].startswith("text/plain")
        return {
            (
                sample.name,
                tuple(sample.labels[name] for name in sorted(sample.labels)),
            ): sample.value
            for family in text_string_to_metric_families(response.text)
            for sample in family.samples
        }

    return read


def test_the_metrics_match_the_database(
    world: World, scrape: Scrape, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By state, destination and stage, with the spool; zeros, and no gaps, before any event."""
    numbers = scrape()
    assert numbers["codecatch_events", ("failed",)] == 0
    for name in ("acknowledged_unhandled", "oldest_unhandled_seconds", "spooled"):
        assert numbers[f"codecatch_{name}", ()] == 0

    runtime = world.connect(slack=True)
    unreadable = webhooks.signed(b'{"type": "sms.received"}')
    handle(runtime, webhooks.virtualsms_v1(order="ord_1"), unreadable)
    (delivery,) = [row for row in all_rows(runtime, Delivery) if row.type == "sms.received"]
    deliver(runtime, delivery)
    receive(runtime, webhooks.virtualsms_v1(order="ord_2"))
    spool = Spool(tmp_path / "spool")
    spool.store(inbox.prepare(runtime.vault, [incoming(webhooks.virtualsms_v1(order="ord_3"))]))
    monkeypatch.setenv("SPOOL_DIR", str(tmp_path / "spool"))
    with runtime.database.transaction() as session:
        heartbeats.beat(session, "sender", now(world.store))
    numbers = scrape()
    assert numbers["codecatch_events", ("handled",)] == 1
    assert numbers["codecatch_events", ("failed",)] == 1
    assert numbers["codecatch_events", ("pending",)] == 1
    assert numbers["codecatch_acknowledged_unhandled", ()] == 2
    assert numbers["codecatch_spooled", ()] == 1
    assert numbers["codecatch_deliveries", ("slack", "done")] == 2  # the code, and the notice
    assert numbers["codecatch_codes", ("ready",)] == 1
    assert 0 <= numbers["codecatch_stage_seconds", ("0.99", "arrived_to_sent")] < 60
    assert 0 <= numbers["codecatch_heartbeat_age_seconds", ("sender",)] < 60
    spool.close()


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {b"Authorization": b"Bearer wrong-token-made-up"},
        {b"Authorization": TOKEN.encode()},
        {b"Authorization": b"Basic " + TOKEN.encode()},
        {b"Authorization": b"Bearer \xff"},
    ],
)
def test_a_request_without_the_token_is_refused(
    world: World, get: Get, headers: dict[bytes, bytes]
) -> None:
    """The response says that a token is required, and nothing else."""
    response = get(world.store.url, headers)
    assert (response.status_code, response.headers["www-authenticate"]) == (401, "Bearer")
    assert "codecatch" not in response.text


def test_an_unavailable_database_is_reported(
    get: Get, make_postgres: Callable[[], PostgresServer]
) -> None:
    """Status 503 and a message, not a traceback."""
    server = make_postgres()
    url = server.url_of(server.create_database())
    prepare(url)
    server.stop()
    response = get(url)
    assert (response.status_code, response.text) == (503, "the database does not answer\n")


@pytest.mark.parametrize(("value", "message"), [(None, "is required"), ("short", "at least 16")])
def test_the_admin_part_requires_a_token(
    monkeypatch: pytest.MonkeyPatch, value: str | None, message: str
) -> None:
    """A missing or short token stops the process at its start."""
    if value is not None:
        monkeypatch.setenv("ADMIN_TOKEN", value)
    with pytest.raises(ConfigurationError, match=f"ADMIN_TOKEN: .*{message}"):
        create_app()
