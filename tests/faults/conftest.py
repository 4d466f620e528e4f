"""Sites to damage: each with a database, a broker and a far side of its own.

Whatever was done to one, at its end no secret is found in what it has left behind.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import pytest

from tests.end_to_end import sinks
from tests.end_to_end.installation import API_KEY, DAISY_KEY, Integrations
from tests.faults import oracle
from tests.faults.load import CANARY, Load
from tests.faults.oracle import Tally
from tests.faults.proxy import Proxy
from tests.faults.site import Site
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
class Scene:
    """A site with its servers, and a provider that sends it events."""

    site: Site
    load: Load
    integrations: Integrations
    broker: ValkeyServer
    postgres: PostgresServer | None
    proxy: Proxy | None

    def tally(self) -> Tally:
        """What became of everything that was sent, once that has come to an end."""
        oracle.settle(self.site)
        return oracle.count(self.site, self.load, self.integrations)


Make = Callable[..., Scene]


@pytest.fixture
def make_scene(tmp_path: Path, _migrated_file: Path) -> Iterator[Make]:
    """Make scenes: on PostgreSQL or SQLite, the broker up or not; :class:`Site` takes the rest.

    The broker may be reached through a proxy, and SQLite's file may lie in a folder of its own.
    """

    def make(
        *,
        postgresql: bool = False,
        broker_running: bool = True,
        through_proxy: bool = False,
        data: Path = tmp_path,
        **options: object,
    ) -> Scene:
        integrations, broker = (
            stack.enter_context(Integrations()),
            stack.enter_context(ValkeyServer()),
        )
        if not broker_running:
            broker.stop()
        server = None
        if postgresql:
            server = stack.enter_context(PostgresServer())
            url = server.url_of(server.create_database())
            stores.prepare(url)
        else:
            url = f"sqlite:///{shutil.copy(_migrated_file, data)}"
        proxy = stack.enter_context(Proxy(broker.port)) if through_proxy else None
        site = Site(
            tmp_path, integrations, database_url=url,
            broker_url=f"redis://127.0.0.1:{proxy.port}/0" if proxy else broker.url,
            **options,  # type: ignore[arg-type]
        )  # fmt: skip
        stack.callback(_find_no_secret, {tmp_path, data}, broker, server)
        stack.enter_context(site)
        return Scene(site, Load(site.port), integrations, broker, server, proxy)

    with ExitStack() as stack:
        yield make


def _find_no_secret(
    folders: Iterable[Path], broker: ValkeyServer, server: PostgresServer | None
) -> None:
    """Look through the logs, the database and its log, the spool, and what the broker holds."""
    if server is not None:
        folders = [*folders, server.folder]
    left = chain.from_iterable(sinks.files(folder).items() for folder in folders)
    seen = {**dict(left), **(sinks.keys(broker.url) if broker.running else {})}
    assert sinks.hits({"what may be seen": "virtualsms"}, seen), "the search itself finds nothing"
    assert sinks.hits(SECRETS, seen) == []
