"""Fixtures: installations to damage, each with its own servers and fake external services.

At the end of each test, the files and the broker must contain no secret.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import psycopg
import pytest

from tests.end_to_end import secret_search
from tests.end_to_end.installation import API_KEY, DAISY_KEY, Integrations
from tests.end_to_end.secret_search import find_secrets
from tests.faults import oracle
from tests.faults.installation import SupervisedInstallation
from tests.faults.load import CANARY, Load
from tests.faults.oracle import Tally
from tests.faults.proxy import Proxy
from tests.support import stores, webhooks
from tests.support.postgres import PostgresServer
from tests.support.valkey import ValkeyServer

SECRETS = {
    "code": CANARY,
    "phone number": webhooks.UK_PHONE.removeprefix("+"),
    "webhook secret": webhooks.SECRET,
    "path token": webhooks.TOKEN,
    "API key": API_KEY,
    "other API key": DAISY_KEY,
    "webhook URL": "T0/B0/made-up",
    "encryption key": stores.ENCRYPTION_KEYS,
}


@dataclass(frozen=True, slots=True)
class Scenario:
    """An installation with its servers, and a load generator for it."""

    installation: SupervisedInstallation
    load: Load
    integrations: Integrations
    broker: ValkeyServer
    postgres: PostgresServer | None
    proxy: Proxy | None

    def tally(self) -> Tally:
        """The effects of all events, counted after all work is finished."""
        oracle.settle(self.installation)
        return oracle.count(self.installation, self.load, self.integrations)


MakeScenario = Callable[..., Scenario]


@pytest.fixture
def make_scenario(tmp_path: Path, _migrated_file: Path) -> Iterator[MakeScenario]:
    """Make scenarios on PostgreSQL or SQLite, with the broker running or not.

    The broker may be behind a proxy, and SQLite's file may be in another folder. A ``restricted``
    installation is no superuser of PostgreSQL, but the role ``part``. Other options go to
    :class:`SupervisedInstallation`.
    """

    def make(
        *,
        postgresql: bool = False,
        broker_running: bool = True,
        through_proxy: bool = False,
        data: Path = tmp_path,
        restricted: bool = False,
        **options: object,
    ) -> Scenario:
        integrations = stack.enter_context(Integrations())
        broker = stack.enter_context(ValkeyServer())
        if not broker_running:
            broker.stop()
        server = None
        if postgresql:
            server = stack.enter_context(PostgresServer())
            url = server.url_of(server.create_database())
            stores.prepare(url)
            url = _restricted(server, url) if restricted else url
        else:
            url = f"sqlite:///{shutil.copy(_migrated_file, data)}"
        proxy = stack.enter_context(Proxy(broker.port)) if through_proxy else None
        installation = SupervisedInstallation(
            tmp_path, integrations, database_url=url,
            broker_url=f"redis://127.0.0.1:{proxy.port}/0" if proxy else broker.url,
            **options,  # type: ignore[arg-type]
        )  # fmt: skip
        stack.callback(_check_for_secrets, {tmp_path, data}, broker, server)
        stack.enter_context(installation)
        return Scenario(installation, Load(installation.port), integrations, broker, server, proxy)

    with ExitStack() as stack:
        yield make


def _restricted(server: PostgresServer, url: str) -> str:
    """Make a role that may use all tables; return the database's URL for it."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("CREATE ROLE part LOGIN PASSWORD 'made-up'")
        connection.execute(
            "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO part"
        )
    return url.replace(f"postgres:{server.password}@", "part:made-up@")


def _check_for_secrets(
    folders: Iterable[Path], broker: ValkeyServer, server: PostgresServer | None
) -> None:
    """Search the logs, the database and its log, the spool, and the broker's keys."""
    if server is not None:
        folders = [*folders, server.folder]
    files = chain.from_iterable(secret_search.files(folder).items() for folder in folders)
    keys = secret_search.broker_keys(broker.url) if broker.running else {}
    outputs = {**dict(files), **keys}
    assert find_secrets({"public word": "virtualsms"}, outputs), "the search finds nothing at all"
    assert find_secrets(SECRETS, outputs) == []
