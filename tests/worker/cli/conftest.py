"""Fixtures that run the command in this process, as a shell would."""

from __future__ import annotations

import io
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
    """Exit code and output of a command."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Standard output parsed as JSON; asserts success."""
        assert self.code == 0, self.err
        return json.loads(self.out)

    def hides(self, *secrets: str) -> None:
        """Assert that the output contains none of the secrets and no API key."""
        for secret in (*secrets, *apis.KEYS.values()):
            assert secret not in self.out + self.err


Run = Callable[..., Answer]


class Terminal(io.StringIO):
    """Standard input or output that is a terminal, with typed text."""

    def isatty(self) -> bool:
        """Always true."""
        return True


@pytest.fixture
def run_unconfigured(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Run:
    """Run the command without configuration, with an empty data directory."""
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
    """Both providers' APIs, configured with their keys; every path answers 404 by default."""
    for provider, base in apis.BASES.items():
        monkeypatch.setenv(f"{provider.upper()}_API_URL", f"{http_server.url}{base}")
        monkeypatch.setenv(f"{provider.upper()}_API_KEY", apis.KEYS[provider])
    return http_server


@pytest.fixture
def selling_api(api: HttpServer) -> HttpServer:
    """Both APIs, with purchases that succeed."""
    api.on("POST", apis.ORDERS, status=201, json=apis.MADE)
    api.on("POST", "/api/v1/virtual/purchase", json={"success": True, "data": apis.BOUGHT})
    return api


@pytest.fixture
def run(run_unconfigured: Run, store: Store, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run the command with the test's database configured."""
    monkeypatch.setenv("DATABASE_URL", store.url)
    monkeypatch.setenv("ENCRYPTION_KEYS", ENCRYPTION_KEYS)
    return run_unconfigured
