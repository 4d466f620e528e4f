"""The receiver's application: one route for each provider that the registry knows."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import structlog
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.routing import Route

from receiver import index_key, queue
from receiver.database import Database
from receiver.errors import ConfigurationError
from receiver.intake import Intake
from receiver.providers import registry
from receiver.providers.base import Provider
from receiver.rejections import Rejections
from receiver.settings import BrokerSettings, StoreSettings, load
from receiver.web.endpoints import Services, WebhookEndpoint, healthz, readyz
from receiver.web.failures import Failures
from receiver.web.middleware import AccessLog
from receiver.web.problems import on_http_exception, on_unexpected
from receiver.web.readiness import Readiness

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
    database = Database(store.url)
    try:
        vault = index_key.open_vault(database, store.keys)
    finally:
        database.dispose()  # nothing stays open unless the application is served

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        waker = queue.Waker(queue.celery_app(broker_url))
        services = Services(
            intake=Intake(database, vault),
            waker=waker,
            rejections=Rejections(database, vault),
            failures=Failures(),
            readiness=Readiness(database, waker),
        )
        app.state.services = services
        services.rejections.start()
        try:
            yield
        finally:
            services.intake.close()
            await services.rejections.close()
            waker.close()
            database.dispose()

    for provider in providers:
        if not provider.configured:
            _log.warning("provider.not_configured", provider=provider.name)
    app = Starlette(
        routes=[
            *(route for provider in providers for route in _routes(provider)),
            Route("/healthz", healthz),
            Route("/readyz", readyz),
        ],
        middleware=[Middleware(AccessLog)],
        exception_handlers={HTTPException: on_http_exception, Exception: on_unexpected},
        lifespan=lifespan,
    )
    # A redirect would turn a POST into a GET, and the event would be lost on the way.
    app.router.redirect_slashes = False
    return app


def _routes(provider: Provider) -> list[Route]:
    endpoint = WebhookEndpoint(provider)
    paths = [f"/webhooks/{provider.name}"]
    if provider.path_token:
        paths.append(f"/webhooks/{provider.name}/{{token}}")
    return [Route(path, endpoint.receive, methods=["POST"]) for path in paths]
