"""The files in deploy/ and the Procfile match the code."""

from __future__ import annotations

import importlib
import pkgutil
import re
import tomllib
from collections.abc import Iterator
from importlib.metadata import requires
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from pydantic_settings import BaseSettings

import receiver
import worker
from receiver.providers.registry import registry
from worker import cli
from worker.configuration import file as configuration_file
from worker.configuration.settings import ApiSettings
from worker.processes.parts import PARTS
from worker.providers.registry import provider_apis
from worker.runtime import installation

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "deploy"
COMPOSE: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
# The containers of other products.
SERVERS = {"postgres", "valkey"}
ENV_FILES = sorted(path for path in DEPLOY.glob("env/*.example") if "postgres" not in path.name)

# The secrets by purpose, and those that each part needs. The worker and the sender share a file.
_WEBHOOK_SECRETS = {"VIRTUALSMS_WEBHOOK_SECRETS", "DAISYSIM_WEBHOOK_TOKENS"}
_API_KEYS = {"VIRTUALSMS_API_KEY", "DAISYSIM_API_KEY"}
_DESTINATION_URLS = {"SLACK_WEBHOOK_URL", "SMTP_URL"}
_ENCRYPTION_KEYS = {"ENCRYPTION_KEYS"}
SECRETS = (
    {"DATABASE_URL", "REDIS_URL", "ADMIN_TOKEN"}
    | _WEBHOOK_SECRETS
    | _API_KEYS
    | _DESTINATION_URLS
    | _ENCRYPTION_KEYS
)
NEEDED = {
    "migrate": {"DATABASE_URL"} | _ENCRYPTION_KEYS,
    "web": {"DATABASE_URL", "REDIS_URL"} | _ENCRYPTION_KEYS | _WEBHOOK_SECRETS,
    "worker": {"DATABASE_URL", "REDIS_URL"} | _ENCRYPTION_KEYS | _API_KEYS | _DESTINATION_URLS,
    "beat": {"REDIS_URL"},
    "admin": {"DATABASE_URL", "ADMIN_TOKEN"},
}


def variables(path: Path) -> dict[str, str]:
    """The variables in an example of an environment file."""
    return installation.read_env(path)


def known_variables() -> set[str]:
    """Every variable that the code reads, in a settings class or directly."""
    for package in (receiver, worker):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if not module.name.startswith(("worker.schema.migrations.", "worker.cli.__main__")):
                importlib.import_module(module.name)
    names = {configuration_file.VARIABLE, "CODECATCH_DATA_DIR"}
    for group in _our_settings(BaseSettings):
        prefixes = [f"{name}_" for name in provider_apis()] if group is ApiSettings else [""]
        names |= {f"{prefix}{name}".upper() for prefix in prefixes for name in group.model_fields}
    return names


def _our_settings(base: type[BaseSettings]) -> Iterator[type[BaseSettings]]:
    for group in base.__subclasses__():
        if group.__module__.split(".")[0] in {"receiver", "worker"}:
            yield group
        yield from _our_settings(group)


def commands() -> Iterator[tuple[str, list[str]]]:
    """Every command in the Procfile, compose.yaml and the units, with its place."""
    for line in (ROOT / "Procfile").read_text().splitlines():
        process, _, command = line.partition(": ")
        yield f"Procfile {process}", command.removeprefix("codecatch ").split()
    for name, service in COMPOSE["services"].items():
        if name not in SERVERS:
            yield f"compose {name}", service["command"]
    for unit in (DEPLOY / "systemd").glob("*.service"):
        (command,) = re.findall(r"^ExecStart=\S+/codecatch (.*)$", unit.read_text(), re.MULTILINE)
        for name in instances() if "@" in unit.name else [""]:
            yield f"{unit.name} {name}", command.replace("%i", name).split()


def instances() -> list[str]:
    """The parts that codecatch.target starts."""
    return re.findall(
        r"codecatch@(\w+)\.service", (DEPLOY / "systemd/codecatch.target").read_text()
    )


@pytest.mark.parametrize(("where", "words"), list(commands()), ids=str)
def test_every_command_exists(where: str, words: list[str]) -> None:
    """Each command is one of ours, and each part exists."""
    command, *rest = words
    assert command in {module.name for module in pkgutil.iter_modules(cli.__path__)}, where
    assert rest == [] if command != "run" else (len(rest) == 1 and rest[0] in PARTS)


@pytest.mark.parametrize("where", ["Procfile", "compose", "codecatch@.service"])
def test_every_part_is_run(where: str) -> None:
    """Every part is started, and the database is migrated before."""
    run = [words for place, words in commands() if place.startswith(where)]
    assert {words[1] for words in run if words[0] == "run"} == set(PARTS)
    assert where == "codecatch@.service" or ["migrate"] in run
    assert (DEPLOY / "systemd/codecatch-migrate.service").exists()


@pytest.mark.parametrize("path", ENV_FILES, ids=lambda path: path.name)
def test_every_variable_is_known(path: Path) -> None:
    """The environment files have no variable that the code does not read."""
    assert set(variables(path)) <= known_variables()


@pytest.mark.parametrize("path", ENV_FILES, ids=lambda path: path.name)
def test_each_part_has_only_the_secrets_that_it_needs(path: Path) -> None:
    """The receiver has no API keys, the workers no webhook secrets, the admin part no keys."""
    assert set(variables(path)) & SECRETS == NEEDED[path.name.partition(".")[0]]


def test_the_list_of_secrets_has_every_provider() -> None:
    """The lists above have the webhook secret and the API key of every provider."""
    webhooks = {
        name.upper()
        for provider in registry().values()
        for name in provider.settings_type.model_fields
        if "webhook" in name
    }
    assert webhooks == _WEBHOOK_SECRETS
    assert {f"{name.upper()}_API_KEY" for name in provider_apis()} == _API_KEYS


def test_the_examples_hold_no_secret() -> None:
    """Each secret is empty or contains CHANGE-ME."""
    for path in DEPLOY.glob("env/*.example"):
        for name, value in variables(path).items():
            if name in SECRETS or "PASSWORD" in name:
                assert value == "" or "CHANGE-ME" in value or name == "REDIS_URL", (path, name)


def test_each_container_reads_the_file_of_its_part() -> None:
    """Each of our services has one environment file, with an example."""
    for name, service in COMPOSE["services"].items():
        if name == "valkey":
            assert "env_file" not in service
            continue
        part = "worker" if name == "sender" else name
        assert service["env_file"] == f"env/{part}.env"
        assert (DEPLOY / f"env/{part}.env.example").exists()
        assert "environment" not in service


def test_containers_have_no_privileges_and_listen_on_this_host_only() -> None:
    """Our containers write only to volumes and have no capabilities; ports are local only."""
    for name, service in COMPOSE["services"].items():
        for port in service.get("ports", []):
            assert port.startswith("127.0.0.1:"), name
        if name not in SERVERS:
            assert (service["read_only"], service["cap_drop"]) == (True, ["ALL"])
            assert service["security_opt"] == ["no-new-privileges"]
            assert (service["image"], service["stop_grace_period"]) == ("codecatch", "30s")
    assert COMPOSE["networks"]["inside"] == {"internal": True}
    outward = {name for name, each in COMPOSE["services"].items() if "edge" in each["networks"]}
    assert outward == {"web", "sender", "admin"}


def test_the_spool_is_on_a_volume() -> None:
    """SPOOL_DIR is the mount point of the volume, so spooled events outlive the container."""
    for part in ("web", "admin"):
        spool = variables(DEPLOY / f"env/{part}.env.example")["SPOOL_DIR"]
        assert f"spool:{spool}" in COMPOSE["services"][part]["volumes"]


def test_the_image_is_pinned_and_does_not_run_as_root() -> None:
    """Every installation checks hashes, and the last USER is not root."""
    text = (DEPLOY / "Dockerfile").read_text().replace("\\\n", " ")
    installs = re.findall(r"pip install ([^&\n]*)", text)
    assert installs
    for install in installs:
        assert "--require-hashes" in install or "--no-index" in install, install
    assert re.findall(r"^USER (\d+):(\d+)$", text, re.MULTILINE)[-1] != ("0", "0")
    for copied in re.findall(r"^COPY (?!--from)(.*) \S+$", text, re.MULTILINE):
        for source in copied.split():
            assert (ROOT / source).exists()
            assert f"!{source}" in (DEPLOY / "Dockerfile.dockerignore").read_text().split()


def pins(name: str) -> dict[str, str]:
    """The pinned version of each package in a requirements file, which must have hashes."""
    text = (DEPLOY / name).read_text()
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    entries = re.split(r"\n(?=\S)", "\n".join(lines))
    found: dict[str, str] = {}
    for entry in entries:
        match = re.fullmatch(
            r"([\w.-]+)==(\S+) \\\n(?:    --hash=sha256:[0-9a-f]{64}(?: \\\n|$))+", entry
        )
        assert match, entry
        found[canonicalize_name(match[1])] = match[2]
    return found


def test_every_dependency_is_pinned_within_its_bounds() -> None:
    """The production set has the dependencies of pyproject.toml, and their dependencies."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    pinned, build = pins("requirements.txt"), pins("requirements-build.txt")
    for requirement in map(Requirement, project["project"]["dependencies"]):
        assert requirement.specifier.contains(pinned[canonicalize_name(requirement.name)])
        for indirect in map(Requirement, requires(requirement.name) or []):
            if indirect.marker is None or indirect.marker.evaluate({"extra": ""}):
                assert canonicalize_name(indirect.name) in pinned, indirect
    for requirement in map(Requirement, project["build-system"]["requires"]):
        assert requirement.specifier.contains(build[canonicalize_name(requirement.name)])


def test_requirements_have_no_urls_or_paths() -> None:
    """The requirements files have no index URL and no path of a developer's machine."""
    for path in DEPLOY.glob("requirements*.txt"):
        assert not re.search(r"https?:|file:|^-", path.read_text(), re.MULTILINE), path
