"""Metrics: what the database says, for whoever has the token."""

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
from tests.worker.support import World, deliver, everything, handle, incoming, now, receive
from worker.admin.app import create_app
from worker.schema.models import Delivery

TOKEN = "made-up-admin-token"
AUTHORIZED = {b"Authorization": f"Bearer {TOKEN}".encode()}
Ask = Callable[..., Response]
Scrape = Callable[[], dict[tuple[str, tuple[str, ...]], float]]


@pytest.fixture
def ask(monkeypatch: pytest.MonkeyPatch) -> Ask:
    """Ask the admin application of a database for its metrics."""

    def get(url: str, headers: Mapping[bytes, bytes] = AUTHORIZED) -> Response:
        monkeypatch.setenv("ADMIN_TOKEN", TOKEN)
        monkeypatch.setenv("DATABASE_URL", url)
        with TestClient(create_app()) as client:
            return client.get("/metrics", headers=headers)

    return get


@pytest.fixture
def scrape(world: World, ask: Ask) -> Scrape:
    """Ask for the metrics; each value by its name and its labels' values."""

    def read() -> dict[tuple[str, tuple[str, ...]], float]:
        answer = ask(world.store.url)
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/plain")
        return {
            (
                sample.name,
                tuple(sample.labels[name] for name in sorted(sample.labels)),
            ): sample.value
            for family in text_string_to_metric_families(answer.text)
            for sample in family.samples
        }

    return read


def test_an_empty_database_has_every_number(scrape: Scrape) -> None:
    """A dashboard can be made before the first event: zeros, and no gaps."""
    numbers = scrape()
    assert numbers["codecatch_events", ("failed",)] == 0
    assert numbers["codecatch_acknowledged_unhandled", ()] == 0
    assert numbers["codecatch_oldest_unhandled_seconds", ()] == 0
    assert numbers["codecatch_spooled", ()] == 0


def test_the_numbers_are_the_database_s(
    world: World, scrape: Scrape, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Events by state, deliveries by destination, the spool's depth, stages and signs of life."""
    made = world.connect(slack=True)
    unreadable = webhooks.signed(b'{"type": "sms.received"}')
    handle(made, webhooks.virtualsms_v1(order="ord_1"), unreadable)
    (told,) = [row for row in everything(made, Delivery) if row.type == "sms.received"]
    deliver(made, told)
    receive(made, webhooks.virtualsms_v1(order="ord_2"))
    spool = Spool(tmp_path / "spool")
    spool.store(inbox.prepare(made.vault, [incoming(webhooks.virtualsms_v1(order="ord_3"))]))
    monkeypatch.setenv("SPOOL_DIR", str(tmp_path / "spool"))
    with made.database.transaction() as session:
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
def test_without_the_token_there_is_nothing(
    world: World, ask: Ask, headers: dict[bytes, bytes]
) -> None:
    """A stranger learns that a token is wanted, and nothing else."""
    answer = ask(world.store.url, headers)
    assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
    assert "codecatch" not in answer.text


def test_a_database_that_is_away_is_said(
    ask: Ask, make_postgres: Callable[[], PostgresServer]
) -> None:
    """503 in words, and no traceback."""
    server = make_postgres()
    url = server.url_of(server.create_database())
    prepare(url)
    server.stop()
    answer = ask(url)
    assert (answer.status_code, answer.text) == (503, "the database does not answer\n")


@pytest.mark.parametrize(("value", "says"), [(None, "is required"), ("short", "at least 16")])
def test_no_token_no_admin(monkeypatch: pytest.MonkeyPatch, value: str | None, says: str) -> None:
    """A missing or guessable token stops the process at its start."""
    if value is not None:
        monkeypatch.setenv("ADMIN_TOKEN", value)
    with pytest.raises(ConfigurationError, match=f"ADMIN_TOKEN: .*{says}"):
        create_app()
