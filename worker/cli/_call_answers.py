"""How a provider's typed answer looks; what stays out of its repr is masked unless revealed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import Field, fields, replace
from decimal import Decimal
from typing import Any, get_args, get_origin, get_type_hints

from worker.calls.caller import Answer
from worker.cli._output import Output, complain, mask
from worker.providers.results import Page, Result


def listed(method: Callable[..., object]) -> type[Result] | None:
    """What the items of the method's answer are, if that is a list or a page of one."""
    kind = get_type_hints(method)["return"]
    if get_origin(kind) not in {tuple, Page}:
        return None
    item: type[Result] = get_args(kind)[0]
    return item


def show(answer: Answer, item: type[Result] | None, output: Output) -> None:
    """Write an answer, a list of ``item`` if it is one, in the form that is wanted."""
    # Masked here: the answer's type knows better than a name what is secret. A service has a
    # code as well.
    masked = replace(output, reveal=True)
    if isinstance(answer, Result) and not isinstance(answer, Page):
        masked.record(_row(answer, reveal=output.reveal))
        return
    many: tuple[Result, ...] = answer.items if isinstance(answer, Page) else answer
    rows = [_row(each, reveal=output.reveal) for each in many]
    keys = [field.name for field in _shown(item or Result)]
    told = [key for key in keys if any(row[key] is not None for row in rows)]
    masked.rows(keys, told or keys, rows)
    if isinstance(answer, Page) and not (output.json or output.csv):
        place = {"page": answer.page, "in all": answer.total}
        said = ", ".join(f"{name}: {n}" for name, n in place.items() if n is not None)
        if said:
            complain(said)


def _row(result: Result, *, reveal: bool) -> dict[str, Any]:
    return {
        field.name: _value(field, getattr(result, field.name), reveal=reveal)
        for field in _shown(result)
    }


def _value(field: Field[Any], value: object, *, reveal: bool) -> Any:
    if isinstance(value, Result):
        return _row(value, reveal=reveal)
    if isinstance(value, tuple):
        return [_row(each, reveal=reveal) for each in value]
    if isinstance(value, Decimal):
        return format(value, "f")
    return value if field.repr or reveal else mask(field.name, value)


def _shown(result: Result | type[Result]) -> list[Field[Any]]:
    return [field for field in fields(result) if field.name != "raw"]
