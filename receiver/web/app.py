"""The receiver's Starlette application: one route for each registered provider."""

from __future__ import annotations

import gc
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path

import structlog
from sqlalchemy.exc import SQLAlchemyError
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.routing import Match, Route
from starlette.types import Scope

from receiver import queue
from receiver.database import compatibility
from receiver.database.engine import Database
from receiver.database.trouble import is_trouble, kind_of
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
from receiver.web.http1.fast_path import FastPath, normal_path
from receiver.web.problems import on_http_exception, on_unexpected
from receiver.web.readiness import Readiness
from receiver.web.request_limits import RequestLimits

# Thresholds of the three generations; a request in flight has some hundred objects.
_GC_THRESHOLDS = (20_000, 10, 10)
_log = structlog.get_logger(__name__)


def create_app() -> Starlette:
    """Build the application from the environment.

    Raises:
        ConfigurationError: a variable is missing or invalid, or the database is not migrated or
            was encrypted with other keys.
    """
    store, broker_url = load(StoreSettings), load(BrokerSettings).required_url
    providers = [provider(load(provider.settings_type)) for provider in registry().values()]
    database, spool_dir = Database(store.url), load(SpoolSettings).spool_dir
    try:
        vault, sealed_key = _open_vault(database, store, spool_dir)
    finally:
        database.dispose()  # keep no connection open before the application is served

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        waker = queue.Waker(queue.celery_app(broker_url))
        async with AsyncExitStack() as closing:
            closing.callback(database.dispose)
            closing.callback(waker.close)
            spool = Spool(spool_dir, sealed_key) if spool_dir is not None else None
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
            readiness = Readiness(database, waker, spool)
            closing.push_async_callback(readiness.close)
            readiness.start()
            app.state.services = Services(
                group_commit=group_commit,
                waker=waker,
                rejections=rejections,
                auth_failures=AuthFailures(),
                request_limits=RequestLimits(),
                readiness=readiness,
            )
            closing.enter_context(_garbage_collector_tuned())
            yield

    for provider in providers:
        if not provider.configured:
            _log.warning("provider.not_configured", provider=provider.name)
    endpoints = {provider: WebhookEndpoint(provider) for provider in providers}
    app = Starlette(
        routes=[
            *(route for item in endpoints.items() for route in _routes(*item)),
            Route("/healthz", healthz),
            Route("/readyz", readyz),
        ],
        middleware=[Middleware(AccessLog)],
        exception_handlers={HTTPException: on_http_exception, Exception: on_unexpected},
        lifespan=lifespan,
    )
    # A redirect turns a POST into a GET, and the event would be lost.
    app.router.redirect_slashes = False
    app.state.fast_path = FastPath(
        app, {_path(provider): endpoints[provider] for provider in providers}
    )
    return app


@contextmanager
def _garbage_collector_tuned() -> Iterator[None]:
    """Freeze the objects that live as long as the process, and collect less often.

    A request makes hundreds of objects and hardly any reference cycle. With the default
    thresholds the collector scans everything that was imported again and again; that takes a
    tenth of the processor time and delays every request.
    """
    before = gc.get_threshold()
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_GC_THRESHOLDS)
    try:
        yield
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()


def _open_vault(
    database: Database, store: StoreSettings, spool_dir: Path | None
) -> tuple[Vault, bytes]:
    """Open the database's vault; return it with its sealed key.

    While the database is away, use the key saved beside the spool.
    """
    try:
        compatibility.check(database)
        sealed = index_key.sealed(database)
    except SQLAlchemyError as error:
        saved = _saved_key(spool_dir) if is_trouble(error) and spool_dir is not None else None
        if saved is None:
            raise
        _log.warning("database.unavailable_at_start", error=kind_of(error))
        return index_key.unseal(saved, store.keys), saved
    return index_key.unseal(sealed, store.keys), sealed


def _saved_key(spool_dir: Path) -> bytes | None:
    try:
        return index_key.load_copy(spool_dir)
    except OSError:
        return None


class _WebhookRoute(Route):
    """A route that extra slashes do not miss: a person has pasted its path somewhere."""

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """As Starlette's, for the path without extra slashes."""
        if scope["type"] == "http":
            path = normal_path(scope["path"])
            if path != scope["path"]:
                scope = {**scope, "path": path}
        return super().matches(scope)


def _routes(provider: Provider, endpoint: WebhookEndpoint) -> list[Route]:
    paths = [_path(provider)]
    if provider.path_token:
        paths.append(f"{paths[0]}/{{token}}")
    return [_WebhookRoute(path, endpoint, methods=["POST", "GET"]) for path in paths]


def _path(provider: Provider) -> str:
    return f"/webhooks/{provider.name}"
