"""The receiver's application: one route for each provider that the registry knows."""

from __future__ import annotations

import gc
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path

import structlog
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.routing import Route

from receiver import queue
from receiver.database.engine import TROUBLE, Database
from receiver.errors import ConfigurationError
from receiver.inbox.group_commit import GroupCommit
from receiver.inbox.rejections import Rejections
from receiver.inbox.spool import Spool
from receiver.inbox.spool_drain import SpoolDrainer
from receiver.providers.base import Provider
from receiver.providers.registry import registry
from receiver.settings import BrokerSettings, SpoolSettings, StoreSettings, load
from receiver.vault import index_key
from receiver.vault.sealing import Vault
from receiver.web.access_log import AccessLog
from receiver.web.auth_failures import AuthFailures
from receiver.web.endpoints import Services, WebhookEndpoint, healthz, readyz
from receiver.web.http1.fast_path import FastPath
from receiver.web.problems import on_http_exception, on_unexpected
from receiver.web.readiness import Readiness

# Of the collector's three generations; a request in flight is some hundred objects.
_COLLECTED_AFTER = (20_000, 10, 10)
_log = structlog.get_logger(__name__)


def create_app() -> Starlette:
    """The application as the environment configures it.

    Raises:
        ConfigurationError: a variable is missing or cannot be used, or the database is not
            prepared for these keys.
    """
    store, broker_url = load(StoreSettings), load(BrokerSettings).broker_url
    if broker_url is None:
        raise ConfigurationError("REDIS_URL: is required")
    providers = [provider(load(provider.settings_type)) for provider in registry().values()]
    database, spool_dir = Database(store.url), load(SpoolSettings).spool_dir
    try:
        vault = _open_vault(database, store, spool_dir)
    finally:
        database.dispose()  # nothing stays open unless the application is served

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        waker = queue.Waker(queue.celery_app(broker_url))
        async with AsyncExitStack() as closing:
            closing.callback(database.dispose)
            closing.callback(waker.close)
            spool = Spool(spool_dir) if spool_dir is not None else None
            group_commit = GroupCommit(database, vault, spool)
            if spool is not None:
                closing.callback(spool.close)
                drain = SpoolDrainer(spool, database, group_commit, waker)
                closing.push_async_callback(drain.close)
                drain.start()
            rejections = Rejections(database, vault)
            closing.push_async_callback(rejections.close)
            rejections.start()
            closing.callback(group_commit.close)
            app.state.services = Services(
                group_commit=group_commit,
                waker=waker,
                rejections=rejections,
                failures=AuthFailures(),
                readiness=Readiness(database, waker, has_spool=spool is not None),
            )
            closing.enter_context(_garbage_settled())
            yield

    for provider in providers:
        if not provider.configured:
            _log.warning("provider.not_configured", provider=provider.name)
    endpoints = {provider: WebhookEndpoint(provider) for provider in providers}
    app = Starlette(
        routes=[
            *(route for each in endpoints.items() for route in _routes(*each)),
            Route("/healthz", healthz),
            Route("/readyz", readyz),
        ],
        middleware=[Middleware(AccessLog)],
        exception_handlers={HTTPException: on_http_exception, Exception: on_unexpected},
        lifespan=lifespan,
    )
    # A redirect would turn a POST into a GET, and the event would be lost on the way.
    app.router.redirect_slashes = False
    app.state.express = FastPath(app, {_path(each): endpoints[each] for each in providers})
    return app


@contextmanager
def _garbage_settled() -> Iterator[None]:
    """Spare the collector the objects that live as long as the process, and short looks.

    A request makes hundreds of objects and hardly a cycle; to look through everything that was
    imported, again and again, takes a tenth of the time and holds every request up.
    """
    before = gc.get_threshold()
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_COLLECTED_AFTER)
    try:
        yield
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()


def _open_vault(database: Database, store: StoreSettings, spool_dir: Path | None) -> Vault:
    """The database's vault; while it is away, the one that is remembered beside the spool."""
    try:
        sealed = index_key.sealed(database)
    except TROUBLE as error:
        kept = index_key.kept(spool_dir) if spool_dir is not None else None
        if kept is None:
            raise
        _log.warning("database.away_at_start", error=type(error).__name__)
        return index_key.unseal(kept, store.keys)
    if spool_dir is not None:
        index_key.keep(spool_dir, sealed)
    return index_key.unseal(sealed, store.keys)


def _routes(provider: Provider, endpoint: WebhookEndpoint) -> list[Route]:
    paths = [_path(provider)]
    if provider.path_token:
        paths.append(f"{paths[0]}/{{token}}")
    return [Route(path, endpoint, methods=["POST"]) for path in paths]


def _path(provider: Provider) -> str:
    return f"/webhooks/{provider.name}"
