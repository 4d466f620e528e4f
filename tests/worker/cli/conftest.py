"""The command, called in this process as a shell would call it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support.http_server import HttpServer
from tests.support.stores import ENCRYPTION_KEYS, Store
from tests.worker.cli import apis
from worker import cli


@dataclass(frozen=True, slots=True)
class Answer:
    """How a command ended and what it said."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Standard output read as JSON, of a command that succeeded."""
        assert self.code == 0, self.err
        return json.loads(self.out)

    def hides(self, *secrets: str) -> None:
        """Assert that nothing which was said holds a secret, or a key of an API."""
        for secret in (*secrets, *apis.KEYS.values()):
            assert secret not in self.out + self.err


Run = Callable[..., Answer]


@pytest.fixture
def bare(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Run:
    """Call the command where nothing is configured, with an empty data directory."""
    monkeypatch.setenv("CODECATCH_DATA_DIR", str(tmp_path / "var"))

    def run(*words: str) -> Answer:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main(list(words))
        said = capsys.readouterr()
        return Answer(int(ended.value.code or 0), said.out, said.err)

    return run


@pytest.fixture
def api(http_server: HttpServer, monkeypatch: pytest.MonkeyPatch) -> HttpServer:
    """Both providers' APIs, configured with their keys; 404 to everything until told otherwise."""
    for provider, base in apis.BASES.items():
        monkeypatch.setenv(f"{provider.upper()}_API_URL", f"{http_server.url}{base}")
        monkeypatch.setenv(f"{provider.upper()}_API_KEY", apis.KEYS[provider])
    return http_server


@pytest.fixture
def selling(api: HttpServer) -> HttpServer:
    """Providers that sell a number whenever they are asked."""
    api.on("POST", apis.ORDERS, status=201, json=apis.MADE)
    api.on("POST", "/api/v1/virtual/purchase", json={"success": True, "data": apis.BOUGHT})
    return api


@pytest.fixture
def run(bare: Run, store: Store, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Call the command where the test's database is configured."""
    monkeypatch.setenv("DATABASE_URL", store.url)
    monkeypatch.setenv("ENCRYPTION_KEYS", ENCRYPTION_KEYS)
    return bare
