"""Start of the application: a configuration error stops it with one line."""

from __future__ import annotations

import asyncio
import base64

import pytest
from starlette.exceptions import HTTPException
from starlette.requests import Request

from receiver.errors import CodecatchError, ConfigurationError
from receiver.providers.registry import registry
from receiver.web import problems
from receiver.web.app import create_app
from tests.support import stores

GOOD = {"ENCRYPTION_KEYS": stores.ENCRYPTION_KEYS, "REDIS_URL": "redis://127.0.0.1:1/0"}


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"DATABASE_URL": ""}, "DATABASE_URL: is required"),
        ({"REDIS_URL": ""}, "REDIS_URL: is required"),
        ({"DAISYSIM_WEBHOOK_TOKENS": "hunter2"}, "DAISYSIM_WEBHOOK_TOKENS: must be tokens"),
        (
            {"ENCRYPTION_KEYS": base64.b64encode(b"x" * 32).decode()},
            "ENCRYPTION_KEYS: cannot open this database: ",
        ),
        ({"DATABASE_URL": "sqlite:///{empty}"}, "DATABASE_URL: the database is not migrated"),
    ],
)
def test_an_invalid_variable_stops_the_start(
    variables: dict[str, str],
    words: str,
    sqlite_url: str,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The error is one line with the variable's name, without its value."""
    empty = str(tmp_path_factory.mktemp("empty") / "x.db")
    for name, value in {**GOOD, "DATABASE_URL": sqlite_url, **variables}.items():
        monkeypatch.setenv(name, value.replace("{empty}", empty))
    with pytest.raises(ConfigurationError) as refused:
        create_app()
    assert str(refused.value).startswith(words)
    assert "\n" not in str(refused.value)
    assert "hunter2" not in str(refused.value)


def test_every_provider_has_a_route(sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """There are routes for the registered providers, health and readiness, and no others."""
    for name, value in {**GOOD, "DATABASE_URL": sqlite_url}.items():
        monkeypatch.setenv(name, value)
    paths = {getattr(route, "path", None) for route in create_app().routes}
    assert {f"/webhooks/{name}" for name in registry()} <= paths
    assert paths == {
        "/webhooks/virtualsms",
        "/webhooks/daisysim",
        "/webhooks/daisysim/{token}",
        "/healthz",
        "/readyz",
    }


@pytest.mark.parametrize("error", CodecatchError.__subclasses__())
def test_every_exception_has_a_status(error: type[CodecatchError]) -> None:
    """Every exception of the receiver that a request can raise has a documented status."""
    answered = {400, 401, 403, 408, 413, 415, 429, 431, 503}
    never_answered = {"ConfigurationError", "UnknownKey", "BrokenSeal", "BrokenSpool"}
    never_answered.add("MalformedPayload")  # what cannot be parsed is stored
    status = problems.status_of(error("in words"))
    assert status in answered or (
        error.__module__.startswith("worker") or error.__name__ in never_answered
    )


def test_other_http_errors_are_problem_documents() -> None:
    """An error that the framework raises keeps its detail and headers."""
    request = Request({"type": "http", "headers": []})
    error = HTTPException(417, "not here", {"X-Why": "so"})
    answer = asyncio.run(problems.on_http_exception(request, error))
    assert (answer.status_code, answer.headers["x-why"]) == (417, "so")
    assert answer.media_type == "application/problem+json"
    with pytest.raises(ZeroDivisionError):
        asyncio.run(problems.on_http_exception(request, ZeroDivisionError()))
