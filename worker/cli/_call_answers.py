"""Output of a provider's typed answer; fields excluded from its repr are masked unless revealed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import Field, fields, replace
from decimal import Decimal
from typing import Any, get_args, get_origin, get_type_hints

from worker.calls.caller import Answer
from worker.cli._output import Output, write_error
from worker.messages import masking
from worker.providers.results import Page, Result


def listed(method: Callable[..., object]) -> type[Result] | None:
    """The item type of the method's answer if it is a list or a page, else None."""
    kind = get_type_hints(method)["return"]
    if get_origin(kind) not in {tuple, Page}:
        return None
    item: type[Result] = get_args(kind)[0]
    return item


def show(answer: Answer, item: type[Result] | None, output: Output) -> None:
    """Write an answer, or a list of ``item``, in the output's format."""
    # Mask here by the field's type, not by its name: a service has a field ``code`` too.
    masked = replace(output, reveal=True)
    if isinstance(answer, Result) and not isinstance(answer, Page):
        masked.record(_row(answer, reveal=output.reveal))
        return
    many: tuple[Result, ...] = answer.items if isinstance(answer, Page) else answer
    rows = [_row(each, reveal=output.reveal) for each in many]
    keys = [field.name for field in _shown(item or Result)]
    filled = [key for key in keys if any(row[key] is not None for row in rows)]
    masked.rows(keys, filled or keys, rows)
    if isinstance(answer, Page) and not (output.json or output.csv):
        position = {"page": answer.page, "total": answer.total}
        line = ", ".join(f"{name}: {n}" for name, n in position.items() if n is not None)
        if line:
            write_error(line)


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
    return value if field.repr or reveal else masking.mask(field.name, value)


def _shown(result: Result | type[Result]) -> list[Field[Any]]:
    return [field for field in fields(result) if field.name != "raw"]
