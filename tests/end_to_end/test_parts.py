"""Each part started separately, with only the variables of its own environment file."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path

import pytest

from tests.end_to_end.installation import Integrations
from tests.support import webhooks
from tests.support.ports import free_port
from tests.support.processes import ServerProcess, stop_all
from tests.support.stores import ENCRYPTION_KEYS
from tests.support.waiting import eventually
from worker.runtime.installation import read_env

ENV = Path(__file__).parents[2] / "deploy/env"
COMMAND = [sys.executable, "-m", "worker.cli"]
ADMIN_TOKEN = "made-up-admin-token-0123456789"
# Variables that Python needs; those of coverage are added.
_INHERITED = ("PATH", "PYTHONPATH", "LANG")


def environment(part: str, values: Mapping[str, str], **more: str) -> dict[str, str]:
    """The variables in a part's file, with these values, and ``more`` without secrets."""
    base = {
        name: value
        for name, value in os.environ.items()
        if name in _INHERITED or name.startswith(("COV_CORE", "COVERAGE"))
    }
    return {
        **base,
        **{name: values[name] for name in read_env(ENV / f"{part}.env.example")},
        **more,
    }


def get(url: str, **headers: str) -> bytes:
    """GET a URL, and return the body."""
    with urllib.request.urlopen(
        urllib.request.Request(url, headers=headers), timeout=10
    ) as response:
        body: bytes = response.read()
    return body


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[[str, dict[str, str]], ServerProcess]]:
    """Start parts that stop at the end of the test."""
    running: list[ServerProcess] = []

    def started(part: str, variables: dict[str, str]) -> ServerProcess:
        folder = tmp_path / part
        folder.mkdir()
        running.append(ServerProcess([*COMMAND, "run", part], env=variables, cwd=folder))
        return running[-1]

    yield started
    stop_all(running)


def test_parts_work_with_only_their_own_secrets(
    postgres_url: str,
    broker_url: str,
    tmp_path: Path,
    start: Callable[[str, dict[str, str]], ServerProcess],
) -> None:
    """An event is handled, confirmed, delivered and counted; no part has another part's secrets."""
    port, admin_port = free_port(), free_port()
    with Integrations() as integrations:
        settings = integrations.environment()
        values = {
            **settings,
            "DATABASE_URL": postgres_url,
            "REDIS_URL": broker_url,
            "ENCRYPTION_KEYS": ENCRYPTION_KEYS,
            "HOST": "127.0.0.1",
            "PORT": str(port),
            "WEB_CONCURRENCY": "1",
            "FORWARDED_ALLOW_IPS": "127.0.0.1",
            "SPOOL_DIR": str(tmp_path / "spool"),
            "ADMIN_TOKEN": ADMIN_TOKEN,
            "ADMIN_HOST": "127.0.0.1",
            "ADMIN_PORT": str(admin_port),
            "CODECATCH_CONFIG": "",
            "LOG_FORMAT": "json",
        }
        apis = {name: value for name, value in settings.items() if name.endswith("_API_URL")}
        migrate = environment("migrate", values)
        subprocess.run([*COMMAND, "migrate"], env=migrate, cwd=tmp_path, check=True, timeout=60)
        parts = {
            "web": start("web", environment("web", values)),
            "worker": start("worker", environment("worker", values, **apis)),
            "sender": start("sender", environment("worker", values, **apis)),
            "beat": start("beat", environment("beat", values)),
            "admin": start("admin", environment("admin", values)),
        }
        base = f"http://127.0.0.1:{port}"

        def ready() -> bool:
            assert all(part.running for part in parts.values()), parts
            return all(json.loads(get(f"{base}/readyz"))["parts"].values())

        eventually(ready, within=60)
        for webhook in (webhooks.virtualsms_v2(code="100001"), webhooks.daisysim(code="200002")):
            request = urllib.request.Request(base + webhook.path, webhook.body, webhook.headers)
            integrations.codes[webhooks.ACTIVATION] = "200002"
            with urllib.request.urlopen(request, timeout=10) as answer:
                assert answer.status == 202
        for code in ("100001", "200002"):
            eventually(partial(integrations.delivered_everywhere, code))
        eventually(lambda: len(integrations.confirmations(webhooks.ORDER)) == 1, within=30)
        metrics = get(
            f"http://127.0.0.1:{admin_port}/metrics", Authorization=f"Bearer {ADMIN_TOKEN}"
        )
        assert b"codecatch" in metrics
        assert all(part.running for part in parts.values())
