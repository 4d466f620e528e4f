"""What deploy/ and the Procfile say is what the product does."""

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
# The containers that are not ours.
SERVERS = {"postgres", "valkey"}
ENV_FILES = sorted(path for path in DEPLOY.glob("env/*.example") if "postgres" not in path.name)

# Which secret a part has no business to know. The worker and the sender share a file.
_VERIFYING = {"VIRTUALSMS_WEBHOOK_SECRETS", "DAISYSIM_WEBHOOK_TOKENS"}
_ASKING = {"VIRTUALSMS_API_KEY", "DAISYSIM_API_KEY"}
_TELLING = {"SLACK_WEBHOOK_URL", "SMTP_URL"}
_SEALING = {"ENCRYPTION_KEYS"}
SECRETS = {"DATABASE_URL", "REDIS_URL", "ADMIN_TOKEN"} | _VERIFYING | _ASKING | _TELLING | _SEALING
NEEDED = {
    "migrate": {"DATABASE_URL"} | _SEALING,
    "web": {"DATABASE_URL", "REDIS_URL"} | _SEALING | _VERIFYING,
    "worker": {"DATABASE_URL", "REDIS_URL"} | _SEALING | _ASKING | _TELLING,
    "beat": {"REDIS_URL"},
    "admin": {"DATABASE_URL", "ADMIN_TOKEN"},
}


def variables(path: Path) -> dict[str, str]:
    """The variables that an example of an environment sets."""
    return installation.read_env(path)


def read_by_the_product() -> set[str]:
    """Every variable that some group of settings reads, and those that have no group."""
    for package in (receiver, worker):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if not module.name.startswith(("worker.schema.migrations.", "worker.cli.__main__")):
                importlib.import_module(module.name)
    names = {configuration_file.VARIABLE, "CODECATCH_DATA_DIR"}
    for group in _ours(BaseSettings):
        prefixes = [f"{name}_" for name in provider_apis()] if group is ApiSettings else [""]
        names |= {f"{prefix}{name}".upper() for prefix in prefixes for name in group.model_fields}
    return names


def _ours(base: type[BaseSettings]) -> Iterator[type[BaseSettings]]:
    for group in base.__subclasses__():
        if group.__module__.split(".")[0] in {"receiver", "worker"}:
            yield group
        yield from _ours(group)


def commands() -> Iterator[tuple[str, list[str]]]:
    """Every command that is run, with where it stands."""
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
def test_every_command_is_one_that_exists(where: str, words: list[str]) -> None:
    """Whatever runs us names a command of ours, and a part that there is."""
    command, *rest = words
    assert command in {module.name for module in pkgutil.iter_modules(cli.__path__)}, where
    assert rest == [] if command != "run" else (len(rest) == 1 and rest[0] in PARTS)


@pytest.mark.parametrize("where", ["Procfile", "compose", "codecatch@.service"])
def test_every_part_is_run(where: str) -> None:
    """No part is forgotten, and the schema is brought up to date before."""
    run = [words for place, words in commands() if place.startswith(where)]
    assert {words[1] for words in run if words[0] == "run"} == set(PARTS)
    assert where == "codecatch@.service" or ["migrate"] in run
    assert (DEPLOY / "systemd/codecatch-migrate.service").exists()


@pytest.mark.parametrize("path", ENV_FILES, ids=lambda path: path.name)
def test_every_variable_is_read_by_the_product(path: Path) -> None:
    """A variable that nobody reads would be a promise that nobody keeps."""
    assert set(variables(path)) <= read_by_the_product()


@pytest.mark.parametrize("path", ENV_FILES, ids=lambda path: path.name)
def test_each_part_is_given_the_secrets_it_needs_and_no_others(path: Path) -> None:
    """The receiver has no API keys, the workers verify nothing, the admin side opens nothing."""
    assert set(variables(path)) & SECRETS == NEEDED[path.name.partition(".")[0]]


def test_the_list_of_secrets_knows_every_provider() -> None:
    """A provider that is added is added to the split of secrets."""
    webhooks = {
        name.upper()
        for provider in registry().values()
        for name in provider.settings_type.model_fields
        if "webhook" in name
    }
    assert webhooks == _VERIFYING
    assert {f"{name.upper()}_API_KEY" for name in provider_apis()} == _ASKING


def test_the_examples_hold_no_secret() -> None:
    """What is to be filled in is empty or says so."""
    for path in DEPLOY.glob("env/*.example"):
        for name, value in variables(path).items():
            if name in SECRETS or "PASSWORD" in name:
                assert value == "" or "CHANGE-ME" in value or name == "REDIS_URL", (path, name)


def test_each_container_reads_the_file_of_its_part() -> None:
    """Each service of ours has one environment file, that there is an example of."""
    for name, service in COMPOSE["services"].items():
        if name == "valkey":
            assert "env_file" not in service
            continue
        wanted = "worker" if name == "sender" else name
        assert service["env_file"] == f"env/{wanted}.env"
        assert (DEPLOY / f"env/{wanted}.env.example").exists()
        assert "environment" not in service


def test_containers_have_no_privileges_and_listen_on_this_host_only() -> None:
    """Ours cannot write but to volumes, have no capability, and no port is open to the network."""
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


def test_the_receiver_shelters_events_on_a_volume() -> None:
    """SPOOL_DIR is where the volume is mounted: elsewhere it would go with the container."""
    for part in ("web", "admin"):
        spool = variables(DEPLOY / f"env/{part}.env.example")["SPOOL_DIR"]
        assert f"spool:{spool}" in COMPOSE["services"][part]["volumes"]


def test_the_image_is_made_of_pinned_parts_and_runs_as_nobody() -> None:
    """Nothing is installed without its hash, and the last user named is not root."""
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
    """What a file of pinned requirements pins, each with its hashes."""
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
    """The production set has all that pyproject.toml asks for, and what that asks for in turn."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    pinned, build = pins("requirements.txt"), pins("requirements-build.txt")
    for wanted in map(Requirement, project["project"]["dependencies"]):
        assert wanted.specifier.contains(pinned[canonicalize_name(wanted.name)]), wanted
        for more in map(Requirement, requires(wanted.name) or []):
            if more.marker is None or more.marker.evaluate({"extra": ""}):
                assert canonicalize_name(more.name) in pinned, more
    for wanted in map(Requirement, project["build-system"]["requires"]):
        assert wanted.specifier.contains(build[canonicalize_name(wanted.name)]), wanted


def test_nothing_says_where_packages_come_from() -> None:
    """No address of an index, and no path of somebody's machine, is in what is committed."""
    for path in DEPLOY.glob("requirements*.txt"):
        assert not re.search(r"https?:|file:|^-", path.read_text(), re.MULTILINE), path
