"""The fixtures that every test may ask for: real servers, each started when first asked for."""

import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from tests.support import stores, webhooks
from tests.support.examples import register_profiles
from tests.support.http_server import HttpServer
from tests.support.postgres import PostgresServer
from tests.support.quick import be_quick, freeze_what_is_imported
from tests.support.smtp_server import SmtpServer, Tls
from tests.support.valkey import ValkeyServer
from worker.simulator.knobs import Knobs
from worker.simulator.server import Simulator
from worker.simulator.webhooks import Target

register_profiles()
be_quick()

# A shell that starts the tests in the background has them ignore SIGINT, and every process that
# they start would ignore it, too.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
# Registered here, since options must be known before the folder with the faults is looked at.
pytest_plugins = ("tests.faults.profile",)

# What the documentation lists; a developer's own values must not change a test.
ENVIRONMENT = (
    "CODECATCH_DATA_DIR",
    "HOST",
    "PORT",
    "WEB_CONCURRENCY",
    "FORWARDED_ALLOW_IPS",
    "DATABASE_URL",
    "REDIS_URL",
    "CELERY_BROKER_URL",
    "ENCRYPTION_KEYS",
    "SPOOL_DIR",
    "VIRTUALSMS_WEBHOOK_SECRETS",
    "VIRTUALSMS_TIMESTAMP_TOLERANCE",
    "VIRTUALSMS_ALLOWED_ADDRESSES",
    "VIRTUALSMS_API_URL",
    "VIRTUALSMS_API_KEY",
    "VIRTUALSMS_RATE_LIMIT",
    "VIRTUALSMS_WEBHOOK_CARE",
    "DAISYSIM_WEBHOOK_TOKENS",
    "DAISYSIM_ALLOWED_ADDRESSES",
    "DAISYSIM_LARGEST_BODY",
    "DAISYSIM_RATE",
    "DAISYSIM_API_URL",
    "DAISYSIM_API_KEY",
    "DAISYSIM_VERIFY_BACK",
    "DAISYSIM_RATE_LIMITS",
    "AUTO_CONFIRM",
    "SLACK_WEBHOOK_URL",
    "SMTP_URL",
    "SMTP_EHLO",
    "CA_FILE",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "HTTPS_PROXY",
    "HTTP_PROXY",
    "NO_PROXY",
    "https_proxy",
    "http_proxy",
    "no_proxy",
    "EMAIL_FROM",
    "EMAIL_TO",
    "DESTINATION_ALLOWED_HOSTS",
    "CODECATCH_CONFIG",
    "RETENTION_CODES",
    "RETENTION_EVENTS",
    "ADMIN_TOKEN",
    "ADMIN_HOST",
    "ADMIN_PORT",
    "LOG_LEVEL",
    "LOG_FORMAT",
)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave the second database to the nightly run, but for tests marked ``both_databases``."""
    for item in items:
        parameters = getattr(getattr(item, "callspec", None), "params", {})
        second = parameters.get("store_url") == "postgresql"
        if second and item.get_closest_marker("both_databases") is None:
            item.add_marker(pytest.mark.nightly)


def pytest_collection_finish() -> None:
    """Before the first test, when everything is imported."""
    freeze_what_is_imported()


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take codecatch's variables out of the environment."""
    for name in ENVIRONMENT:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="session")
def valkey() -> Iterator[ValkeyServer]:
    """A Valkey server shared by this process's tests, which must neither stop nor freeze it."""
    with ValkeyServer() as server:
        yield server


@pytest.fixture(scope="session")
def valkey_url(valkey: ValkeyServer) -> str:
    """The address of the shared Valkey server's database 0."""
    return valkey.url


@pytest.fixture(scope="session")
def _valkey_databases(valkey: ValkeyServer) -> Iterator[int]:
    """The numbers of the databases to lend, in turn, so that a late writer disturbs nobody."""
    return (number % (valkey.DATABASES - 1) + 1 for number in count())


@pytest.fixture
def broker_url(valkey: ValkeyServer, _valkey_databases: Iterator[int]) -> str:
    """The address of an empty database on the shared Valkey server."""
    database = next(_valkey_databases)
    valkey.flush(database)
    return valkey.url_of(database)


@pytest.fixture
def make_valkey() -> Iterator[Callable[[], ValkeyServer]]:
    """Start Valkey servers of the test's own, to stop, kill and freeze."""
    with ExitStack() as stack:
        yield lambda: stack.enter_context(ValkeyServer())


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """A PostgreSQL server shared by this process's tests, which must neither stop nor freeze it."""
    with PostgresServer() as server:
        yield server


@pytest.fixture
def postgres_url(postgres: PostgresServer) -> Iterator[str]:
    """The address of an empty database of the test's own."""
    with postgres.database() as url:
        yield url


@pytest.fixture
def clone_postgres(
    postgres: PostgresServer,
) -> Iterator[Callable[[str, Callable[[str], None]], str]]:
    """Make databases as `prepare(address)` has filled one, which happens once for each `name`."""

    def clone(name: str, prepare: Callable[[str], None]) -> str:
        template = postgres.template(name, prepare)
        return stack.enter_context(postgres.database(template=template))

    with ExitStack() as stack:
        yield clone


@pytest.fixture
def make_postgres() -> Iterator[Callable[[], PostgresServer]]:
    """Start PostgreSQL servers of the test's own, to stop, kill and freeze (about a second)."""
    with ExitStack() as stack:
        yield lambda: stack.enter_context(PostgresServer())


@pytest.fixture
def make_http_server() -> Iterator[Callable[[], HttpServer]]:
    """Start HTTP servers that record requests and answer by rules."""
    with ExitStack() as stack:
        yield lambda: stack.enter_context(HttpServer())


@pytest.fixture
def http_server(make_http_server: Callable[[], HttpServer]) -> HttpServer:
    """One such HTTP server."""
    return make_http_server()


@pytest.fixture
def make_smtp_server() -> Iterator[Callable[..., SmtpServer]]:
    """Start SMTP servers that keep mail: `make_smtp_server(tls="starttls", auth=("me", "pw"))`."""

    def make(*, tls: Tls = "none", auth: tuple[str, str] | None = None) -> SmtpServer:
        return stack.enter_context(SmtpServer(tls=tls, auth=auth))

    with ExitStack() as stack:
        yield make


@pytest.fixture
def smtp_server(make_smtp_server: Callable[..., SmtpServer]) -> SmtpServer:
    """One such SMTP server without TLS and login."""
    return make_smtp_server()


@pytest.fixture
def make_simulator() -> Iterator[Callable[..., Simulator]]:
    """Start simulated providers: `make_simulator(receiver.url, dialect="v1", api_cut=0.1)`.

    Their webhooks go to the address, if there is one, authentic under the secret and the token of
    tests.support.webhooks; all the rest are their knobs.
    """

    def make(webhook_url: str | None = None, *, dialect: str = "v2", **knobs: Any) -> Simulator:
        target = webhook_url and Target(webhook_url, webhooks.SECRET, webhooks.TOKEN, dialect)
        return stack.enter_context(Simulator(Knobs(**knobs), target or None))

    with ExitStack() as stack:
        yield make


@pytest.fixture
def simulator(make_simulator: Callable[..., Simulator]) -> Simulator:
    """Both providers, with no faults, no webhooks, and messages that are delivered by hand."""
    return make_simulator()


@pytest.fixture(scope="session")
def _migrated_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated SQLite database to copy: that is fifty times as fast as to migrate one."""
    file = tmp_path_factory.mktemp("migrated") / "codecatch.db"
    stores.prepare(f"sqlite:///{file}")
    return file


@pytest.fixture(params=["sqlite", "postgresql"])
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The address of a migrated database, once on SQLite and once on PostgreSQL."""
    if request.param == "sqlite":
        file = shutil.copy(request.getfixturevalue("_migrated_file"), tmp_path)
        return f"sqlite:///{file}"
    clone: Callable[..., str] = request.getfixturevalue("clone_postgres")
    return clone("migrated", stores.prepare)


@pytest.fixture
def store(store_url: str) -> Iterator[stores.Store]:
    """A migrated database, opened, on either server."""
    opened = stores.open_store(store_url)
    yield opened
    opened.database.dispose()
