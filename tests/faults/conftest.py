"""Sites to damage: each with a database, a broker and a far side of its own."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.end_to_end.installation import Outside
from tests.faults import oracle
from tests.faults.load import Load
from tests.faults.oracle import Tally
from tests.faults.proxy import Proxy
from tests.faults.site import Site
from tests.support import stores
from tests.support.postgres import PostgresServer
from tests.support.valkey import ValkeyServer


@dataclass(frozen=True, slots=True)
class Scene:
    """A site with its servers, and a provider that sends it events."""

    site: Site
    load: Load
    outside: Outside
    broker: ValkeyServer
    postgres: PostgresServer | None
    proxy: Proxy | None

    def tally(self) -> Tally:
        """What became of everything that was sent, once that has come to an end."""
        oracle.settle(self.site)
        return oracle.count(self.site, self.load, self.outside)


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
        outside, broker = stack.enter_context(Outside()), stack.enter_context(ValkeyServer())
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
            tmp_path, outside, database_url=url,
            broker_url=f"redis://127.0.0.1:{proxy.port}/0" if proxy else broker.url,
            **options,  # type: ignore[arg-type]
        )  # fmt: skip
        stack.enter_context(site)
        return Scene(site, Load(site.port), outside, broker, server, proxy)

    with ExitStack() as stack:
        yield make
