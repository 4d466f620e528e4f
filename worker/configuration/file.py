"""The configuration file: destinations, routes, and the destinations of operator notices.

A TOML file, named by ``CODECATCH_CONFIG``; by default ``./codecatch.toml``, if it exists. It holds
no secrets: it names the environment variables that do. Without a file, the Slack webhook and the
mail server of the environment become destinations through the same tables.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

from pydantic import BaseModel, ValidationError

from receiver.errors import ConfigurationError
from receiver.settings import load, requirement
from worker.configuration.destination_policy import DestinationPolicy
from worker.configuration.routing import Match, Route, Routing
from worker.configuration.settings import DestinationSettings
from worker.configuration.suggestions import suggestion
from worker.configuration.tables import TABLES, DestinationTable, File
from worker.destinations.base import Destination, Options
from worker.destinations.registry import discover
from worker.messages.text import plain

VARIABLE = "CODECATCH_CONFIG"
_DEFAULT_FILE = Path("codecatch.toml")
_MAX_CHARACTERS = 1_000_000
# Pydantic's error types, as messages in the terms of TOML.
_MESSAGES: Final[Mapping[str, str]] = {
    "bool_type": "must be true or false",
    "dict_type": "must be a table",
    "float_type": "must be a number",
    "int_from_float": "must be a whole number",
    "int_type": "must be a whole number",
    "list_type": 'must be a list, such as ["…"]',
    "missing": "is required",
    "model_type": "must be a table, such as { … }",
    "path_type": "must be a path in quotes",
    "string_too_short": "must not be empty",
    "string_type": "must be a string in quotes",
    "too_short": "must have at least one item",
    "tuple_type": 'must be a list, such as ["…"]',
}
_Model = TypeVar("_Model", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class DeclaredDestination:
    """One destination as the configuration declares it, before it is built."""

    kind: type[Destination]
    options: Options
    policy: DestinationPolicy
    templates: Path | None
    source: Source


@dataclass(frozen=True, slots=True)
class Configuration:
    """The whole configuration; ``file`` is None if it comes from the environment alone."""

    file: Path | None
    destinations: Sequence[DeclaredDestination]
    routing: Routing


@dataclass(frozen=True, slots=True)
class Source:
    """The location of a key in the configuration file, for error messages."""

    file: Path | None
    path: tuple[str | int, ...] = ()

    def at(self, *more: str | int) -> Source:
        """The location of a key below this one."""
        return Source(self.file, (*self.path, *more))

    @property
    def key(self) -> str:
        """The key as ``routes[1].match``: items of a list are counted from 0."""
        parts = (f"[{part}]" if isinstance(part, int) else f".{part}" for part in self.path)
        return "".join(parts).removeprefix(".")

    def error(self, problem: str) -> ConfigurationError:
        """An error to raise, with the file, if there is one, and the key."""
        where = (str(self.file or ""), plain(self.key), plain(problem))
        return ConfigurationError(": ".join(filter(None, where)))


def read() -> Configuration:
    """Read the configuration file, or the environment if there is no file.

    Raises:
        ConfigurationError: names the file, the key, what is wrong and what to write; contains no
            secret.
    """
    name = os.environ.get(VARIABLE)
    path = Path(name) if name else _DEFAULT_FILE
    if not name and not path.exists():
        return _interpret(Source(None), _from_environment(load(DestinationSettings)))
    return _interpret(Source(path), _parse(path, _read_text(path)))


def _read_text(path: Path) -> str:
    try:
        # utf-8-sig: some editors write a byte order mark.
        with path.open(encoding="utf-8-sig") as file:
            text = file.read(_MAX_CHARACTERS + 1)
    except OSError as error:
        raise ConfigurationError(f"{VARIABLE}: cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigurationError(f"{path}: must be UTF-8 text") from None
    if len(text) > _MAX_CHARACTERS:
        raise ConfigurationError(f"{path}: must have at most {_MAX_CHARACTERS:,} characters")
    return text


def _parse(path: Path, text: str) -> Mapping[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        line, problem = _syntax_error(str(error), text)
    except RecursionError:
        raise ConfigurationError(f"{path}: too many nested brackets") from None
    raise ConfigurationError(f"{path}:{line}: invalid TOML: {problem}")


def _syntax_error(message: str, text: str) -> tuple[int, str]:
    """The line and the problem in the parser's message, which ends with the position."""
    problem, _, position = message.rpartition(" (at ")
    line = re.match(r"line (\d+),", position)
    last = text.rstrip().count("\n") + 1
    return int(line[1]) if line else last, plain(_lower_first(problem))


def _from_environment(settings: DestinationSettings) -> dict[str, Any]:
    tables: list[dict[str, Any]] = []
    if settings.slack_webhook_url is not None:
        tables.append({"name": "slack", "kind": "slack", "url_env": "SLACK_WEBHOOK_URL"})
    if settings.smtp_url is None and settings.email_to:
        raise ConfigurationError("SMTP_URL: is required when EMAIL_TO is set")
    if settings.smtp_url is not None:
        if not settings.email_from or not settings.email_to:
            raise ConfigurationError("SMTP_URL: also requires EMAIL_FROM and EMAIL_TO; set both")
        tables.append(
            {
                "name": "email",
                "kind": "email",
                "url_env": "SMTP_URL",
                "from": settings.email_from,
                "to": list(settings.email_to),
            }
        )
    return {"destinations": tables}


def _interpret(source: Source, document: Mapping[str, Any]) -> Configuration:
    file = _validate(source, File, document)
    declared = [
        _declare(source.at("destinations", number), table)
        for number, table in enumerate(file.destinations)
    ]
    names = [each.policy.name for each in declared]
    _check_names(source, names)
    _check_fallbacks(declared)
    for number, route in enumerate(file.routes or ()):
        _check_known(source.at("routes", number, "to"), route.to, names)
    if file.operators is not None:
        _check_known(source.at("operators", "to"), file.operators.to, names)
    routes = None
    if file.routes is not None:
        routes = tuple(
            Route(
                Match.of(route.match.patterns()),
                tuple(route.to),
                route.stop,
                source.at("routes", number).key,
            )
            for number, route in enumerate(file.routes)
        )
    operators = None if file.operators is None else tuple(file.operators.to)
    return Configuration(source.file, declared, Routing(names, routes, operators))


def _declare(source: Source, table: DestinationTable) -> DeclaredDestination:
    kinds = discover()
    kind = kinds.get(table.kind)
    if kind is None:
        raise source.at("kind").error(
            f"unknown kind {table.kind!r}{suggestion(table.kind, sorted(kinds))}"
        )
    options = _validate(source, kind.options_type, table.model_extra or {}, also=DestinationTable)
    templates = table.templates
    if templates is not None and source.file is not None:
        templates = source.file.parent / templates
    return DeclaredDestination(kind, options, table.policy(kind), templates, source)


def _check_names(source: Source, names: Sequence[str]) -> None:
    for number, name in enumerate(names):
        if name in names[:number]:
            raise source.at("destinations", number, "name").error(
                f"two destinations are named {name!r}; rename one of them"
            )


def _check_fallbacks(declared: Sequence[DeclaredDestination]) -> None:
    fallbacks = {each.policy.name: each.policy.fallback for each in declared}
    for each in declared:
        if each.policy.fallback is None:
            continue
        source = each.source.at("fallback")
        _check_known(source, [each.policy.fallback], list(fallbacks))
        visited = {each.policy.name}
        following: str | None = each.policy.fallback
        while following is not None:
            if following in visited:
                raise source.error(f"the fallbacks form a loop through {following!r}")
            visited.add(following)
            following = fallbacks[following]


def _check_known(source: Source, referenced: Sequence[str], names: Sequence[str]) -> None:
    for name in referenced:
        if name not in names:
            raise source.error(f"unknown destination {name!r}{suggestion(name, names)}")


def _validate(
    source: Source,
    model: type[_Model],
    table: Mapping[str, Any],
    *,
    also: type[BaseModel] | None = None,
) -> _Model:
    """Validate a table; the fields of ``also`` belong to the same table, for suggestions."""
    try:
        return model.model_validate(table)
    except ValidationError as error:
        errors = error.errors(include_input=False, include_url=False, include_context=False)
        # Report a misspelt key first: it explains why the correct one is missing.
        first = min(errors, key=lambda each: each["type"] != "extra_forbidden")
    path = first["loc"]
    table_model = TABLES.get(str(next((w for w in path[-2::-1] if w in TABLES), "")), model)
    known = [name for each in (table_model, also) if each is not None for name in _fields(each)]
    if first["type"] == "extra_forbidden":
        raise _unknown_key(source.at(*path[:-1]), str(path[-1]), known)
    raise source.at(*path).error(_problem(first["type"], first["msg"]))


def _unknown_key(table: Source, key: str, known: Sequence[str]) -> ConfigurationError:
    if f"{key}_env" in known:
        return table.at(key).error(
            f"set the value in an environment variable and write the variable's name in {key}_env"
        )
    return table.error(f"unknown key {plain(key)!r}{suggestion(key, known)}")


def _problem(error: str, message: str) -> str:
    """The message for a pydantic error of type ``error``."""
    if error in _MESSAGES:
        return _MESSAGES[error]
    if message.startswith(("Value error, ", "Input should be ")):
        return f"must be {requirement(message)}"
    return _lower_first(message)


def _fields(model: type[BaseModel]) -> list[str]:
    return [field.alias or name for name, field in model.model_fields.items()]


def _lower_first(text: str) -> str:
    return text[:1].lower() + text[1:]
