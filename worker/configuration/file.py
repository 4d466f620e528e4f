"""The configuration file: destinations, routes, and who hears of trouble.

TOML, named by ``CODECATCH_CONFIG``, or ``./codecatch.toml`` where that exists. Secrets are not in
it: it names the variables that hold them. Without a file the environment's Slack webhook and mail
server are the destinations, by way of the same tables.
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
from receiver.settings import load
from worker.configuration.destination_policy import DestinationPolicy
from worker.configuration.routing import Match, Route, Routing
from worker.configuration.settings import DestinationSettings
from worker.configuration.suggestions import suggestion
from worker.configuration.tables import TABLES, DestinationTable, File
from worker.configuration.toml_lines import line_of
from worker.destinations.base import Destination, Options
from worker.destinations.registry import discover
from worker.messages.text import plain

VARIABLE = "CODECATCH_CONFIG"
_USUAL_FILE = Path("codecatch.toml")
_MOST_CHARACTERS = 1_000_000
# What pydantic finds, in the words of somebody who writes TOML.
_WANTED: Final[Mapping[str, str]] = {
    "bool_type": "true or false",
    "dict_type": "a table",
    "float_type": "a number",
    "int_from_float": "a whole number",
    "int_type": "a whole number",
    "list_type": 'a list, like ["…"]',
    "model_type": "a table, like { … }",
    "path_type": "a path in quotes",
    "string_type": "a text in quotes",
    "too_short": "one at least",
    "tuple_type": 'a list, like ["…"]',
}
_Model = TypeVar("_Model", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class Declared:
    """One destination as it was declared: what it is made of, and how it is to be told."""

    kind: type[Destination]
    options: Options
    policy: DestinationPolicy
    templates: Path | None
    source: Source


@dataclass(frozen=True, slots=True)
class Configuration:
    """Everything that was declared; ``file`` is None where the environment alone did."""

    file: Path | None
    declared: Sequence[Declared]
    routing: Routing


@dataclass(frozen=True, slots=True)
class Source:
    """Where a declaration stands, for words about what is wrong with it."""

    file: Path | None
    text: str
    path: tuple[str | int, ...] = ()

    def at(self, *more: str | int) -> Source:
        """A place within this one."""
        return Source(self.file, self.text, (*self.path, *more))

    @property
    def line(self) -> int:
        """Its line, from 1."""
        return line_of(self.text, self.path)

    def error(self, problem: str) -> ConfigurationError:
        """What is wrong here, to be raised: with file and line, where there is a file."""
        where = f"{self.file}:{self.line}: " if self.file is not None else ""
        return ConfigurationError(f"{where}{plain(problem)}")


def read() -> Configuration:
    """What the configuration file declares, or without one the environment.

    Raises:
        ConfigurationError: file, line, what is wrong, and what is wanted; holds nothing secret.
    """
    named = os.environ.get(VARIABLE)
    path = Path(named) if named else _USUAL_FILE
    if not named and not path.exists():
        return _interpret(Source(None, ""), _from_environment(load(DestinationSettings)))
    text = _text(path)
    return _interpret(Source(path, text), _parsed(path, text))


def _text(path: Path) -> str:
    try:
        # Some editors put a byte order mark in front.
        with path.open(encoding="utf-8-sig") as file:
            text = file.read(_MOST_CHARACTERS + 1)
    except OSError as error:
        raise ConfigurationError(f"{VARIABLE}: cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigurationError(f"{path}: wants UTF-8 text") from None
    if len(text) > _MOST_CHARACTERS:
        raise ConfigurationError(f"{path}: wants a million characters at most")
    return text


def _parsed(path: Path, text: str) -> Mapping[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        line, problem = _of_syntax(str(error), text)
    except RecursionError:
        raise ConfigurationError(f"{path}: is nested too deeply") from None
    raise ConfigurationError(f"{path}:{line}: is not TOML: {problem}")


def _of_syntax(message: str, text: str) -> tuple[int, str]:
    """The line and the words of the parser's message, which ends with the place."""
    words, _, place = message.rpartition(" (at ")
    line = re.match(r"line (\d+),", place)
    last = text.rstrip().count("\n") + 1
    return int(line[1]) if line else last, plain(_lowered(words))


def _from_environment(chosen: DestinationSettings) -> dict[str, Any]:
    tables: list[dict[str, Any]] = []
    if chosen.slack_webhook_url is not None:
        tables.append({"name": "slack", "kind": "slack", "url_env": "SLACK_WEBHOOK_URL"})
    if chosen.smtp_url is None and chosen.email_to:
        raise ConfigurationError("SMTP_URL: is required with EMAIL_TO")
    if chosen.smtp_url is not None:
        if not chosen.email_from or not chosen.email_to:
            raise ConfigurationError("SMTP_URL: wants EMAIL_FROM and EMAIL_TO as well")
        tables.append(
            {
                "name": "email",
                "kind": "email",
                "url_env": "SMTP_URL",
                "from": chosen.email_from,
                "to": list(chosen.email_to),
            }
        )
    return {"destinations": tables}


def _interpret(source: Source, document: Mapping[str, Any]) -> Configuration:
    file = _validated(source, File, document)
    declared = [
        _declared(source.at("destinations", number), table)
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
                source.at("routes", number).line,
            )
            for number, route in enumerate(file.routes)
        )
    told = None if file.operators is None else tuple(file.operators.to)
    return Configuration(source.file, declared, Routing(names, routes, told))


def _declared(source: Source, table: DestinationTable) -> Declared:
    kinds = discover()
    kind = kinds.get(table.kind)
    if kind is None:
        raise source.at("kind").error(
            f"kind: no destination is of the kind {table.kind!r}"
            f"{suggestion(table.kind, sorted(kinds))}"
        )
    options = _validated(source, kind.options_type, table.model_extra or {}, also=DestinationTable)
    templates = table.templates
    if templates is not None and source.file is not None:
        templates = source.file.parent / templates
    return Declared(kind, options, table.policy(kind), templates, source)


def _check_names(source: Source, names: Sequence[str]) -> None:
    for number, name in enumerate(names):
        if name in names[:number]:
            raise source.at("destinations", number, "name").error(
                f"name: two destinations are called {name!r}: give one of them another name"
            )


def _check_fallbacks(declared: Sequence[Declared]) -> None:
    falls_to = {each.policy.name: each.policy.fallback for each in declared}
    for each in declared:
        if each.policy.fallback is None:
            continue
        place = each.source.at("fallback")
        _check_known(place, [each.policy.fallback], list(falls_to))
        passed = {each.policy.name}
        following: str | None = each.policy.fallback
        while following is not None:
            if following in passed:
                raise place.error(f"fallback: {following!r} would be its own fallback in the end")
            passed.add(following)
            following = falls_to[following]


def _check_known(place: Source, wanted: Sequence[str], names: Sequence[str]) -> None:
    for name in wanted:
        if name not in names:
            key = place.path[-1]
            raise place.error(f"{key}: no destination is called {name!r}{suggestion(name, names)}")


def _validated(
    source: Source,
    model: type[_Model],
    table: Mapping[str, Any],
    *,
    also: type[BaseModel] | None = None,
) -> _Model:
    """The table as the model has it; ``also`` is whose fields may stand in the same table."""
    try:
        return model.model_validate(table)
    except ValidationError as error:
        errors = error.errors(include_input=False, include_url=False, include_context=False)
        # A name that was misspelt explains the one that is missing.
        first = min(errors, key=lambda each: each["type"] != "extra_forbidden")
    place = first["loc"]
    table_of = TABLES.get(str(next((w for w in place[-2::-1] if w in TABLES), "")), model)
    known = [name for each in (table_of, also) if each is not None for name in _fields(each)]
    name = str(next((part for part in reversed(place) if isinstance(part, str)), "it"))
    words = _in_words(first["type"], first["msg"], name, known)
    raise source.at(*place).error(f"{name}: {words}")


def _in_words(kind: str, message: str, name: str, known: Sequence[str]) -> str:
    if kind == "extra_forbidden":
        if f"{name}_env" in known:
            return f"wants to be in a variable of the environment: {name}_env says its name"
        return f"nothing is called so here{suggestion(name, known)}"
    if kind == "missing":
        return "is required"
    said = message.removeprefix("Value error, ").removeprefix("Input should be ")
    wanted = _WANTED.get(kind, _lowered(said))
    return f"wants a number {wanted}" if kind.startswith(("greater", "less")) else f"wants {wanted}"


def _fields(model: type[BaseModel]) -> list[str]:
    return [field.alias or name for name, field in model.model_fields.items()]


def _lowered(words: str) -> str:
    return words[:1].lower() + words[1:]
