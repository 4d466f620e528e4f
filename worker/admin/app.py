"""The admin application: metrics for requests with the admin token."""

from __future__ import annotations

import hmac
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import structlog
from prometheus_client import CONTENT_TYPE_LATEST
from sqlalchemy.exc import SQLAlchemyError
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from receiver.database import compatibility
from receiver.database.engine import Database
from receiver.errors import ConfigurationError
from receiver.settings import DatabaseSettings, SpoolSettings, load
from worker.admin import metrics
from worker.admin.settings import AdminSettings

_log = structlog.get_logger(__name__)


def create_app() -> Starlette:
    """Create the application from the environment.

    Raises:
        ConfigurationError: a variable is missing or invalid, or the schema does not fit.
    """
    token = load(AdminSettings).admin_token
    if token is None:
        raise ConfigurationError("ADMIN_TOKEN: is required; set a token of at least 16 characters")
    database, folder = Database(load(DatabaseSettings).url), load(SpoolSettings).spool_dir
    with suppress(SQLAlchemyError):  # a database that is away is reported by each scrape
        compatibility.check(database)
    watch = compatibility.Watch(database)
    expected = f"Bearer {token.get_secret_value()}".encode("utf-8", "surrogateescape")

    async def scrape(request: Request) -> Response:
        given = [value for name, value in request.headers.raw if name == b"authorization"]
        if len(given) != 1 or not hmac.compare_digest(given[0], expected):
            return PlainTextResponse("bearer token required\n", 401, {"WWW-Authenticate": "Bearer"})
        return await run_in_threadpool(_render, database, folder, watch)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        yield
        database.dispose()

    app = Starlette(routes=[Route("/metrics", scrape)], lifespan=lifespan)
    app.router.redirect_slashes = False
    return app


def _render(database: Database, folder: Path | None, watch: compatibility.Watch) -> Response:
    misfit = watch.misfit()
    if misfit is not None:
        return PlainTextResponse(f"{misfit}\n", 503)
    try:
        body = metrics.render(database, folder)
    except SQLAlchemyError as error:
        _log.warning("metrics.database_away", error=type(error).__name__)
        return PlainTextResponse("the database does not answer\n", 503)
    return Response(body, media_type=CONTENT_TYPE_LATEST)
