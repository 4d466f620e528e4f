"""What a call takes on the command line, as its method's signature says.

A positional parameter is an argument, a keyword-only one an option; both keep their names.
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
    """The method's parameters, but for ``self``, as Typer wants them."""
    hints = get_type_hints(method)
    given = [each for each in inspect.signature(method).parameters.values() if each.name != "self"]
    return [
        each.replace(
            kind=inspect.Parameter.KEYWORD_ONLY,
            annotation=_annotated(each, hints[each.name]),
        )
        for each in given
    ]


def option(name: str, annotation: Any, default: object = False) -> inspect.Parameter:
    """One more option, which is no parameter of the method."""
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation
    )


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
        raise typer.BadParameter("wants a price as it was given, such as 1.1400")
    return price


# What Typer must be told about a type. Whatever is counted or numbered begins with one.
_SETTINGS: dict[Any, dict[str, Any]] = {
    str: {"parser": _filters.text},
    float: {"parser": _filters.seconds, "help": "Seconds."},
    int: {"min": 1},
    Decimal: {"parser": _price, "help": "As it was given, to the last digit."},
}
