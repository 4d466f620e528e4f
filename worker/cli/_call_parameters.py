"""Typer parameters of a provider call, derived from its method's signature.

A positional parameter becomes an argument and a keyword-only one an option of the same name.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from decimal import Decimal
from types import NoneType
from typing import Annotated, Any, get_args, get_type_hints

import typer

from worker.cli import _filters
from worker.providers.fields import Fields


def of(method: Callable[..., object]) -> list[inspect.Parameter]:
    """The method's parameters without ``self``, annotated for Typer."""
    hints = get_type_hints(method)
    parameters = [
        each for each in inspect.signature(method).parameters.values() if each.name != "self"
    ]
    return [
        each.replace(
            kind=inspect.Parameter.KEYWORD_ONLY,
            annotation=_annotated(each, hints[each.name]),
        )
        for each in parameters
    ]


def option(name: str, annotation: Any) -> inspect.Parameter:
    """An additional flag that the method does not have."""
    kind = inspect.Parameter.KEYWORD_ONLY
    return inspect.Parameter(name, kind, default=False, annotation=annotation)


def _annotated(parameter: inspect.Parameter, hint: Any) -> Any:
    kind = next((each for each in get_args(hint) if NoneType in get_args(hint)), hint)
    settings = {"metavar": parameter.name.upper(), **_SETTINGS.get(kind, {})}
    if parameter.kind is inspect.Parameter.KEYWORD_ONLY:
        name = f"--{parameter.name.replace('_', '-')}"
        return Annotated[hint, typer.Option(name, **settings)]
    return Annotated[hint, typer.Argument(**settings)]


def _price(value: str) -> Decimal:
    price = Fields({"price": value}).number("price")
    if price is None or price <= 0:
        raise typer.BadParameter(
            "must be a price exactly as the provider quoted it, such as 1.1400"
        )
    return price


# Typer settings by type. All integers are counts or ids, so they start at 1.
_SETTINGS: dict[Any, dict[str, Any]] = {
    str: {"parser": _filters.text},
    float: {"parser": _filters.seconds, "help": "Timeout in seconds."},
    int: {"min": 1},
    Decimal: {"parser": _price, "help": "Exactly as the provider quoted it, with all digits."},
}
