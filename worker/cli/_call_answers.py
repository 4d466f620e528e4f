"""Output of a provider's typed answer; fields excluded from its repr are masked unless revealed.

JSON also has the fields that the answer has no attribute for, under the names that the provider
gave them. What their names or values show to be secret is masked, too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import Field, fields, replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, get_args, get_origin, get_type_hints

from worker.calls.caller import Answer
from worker.cli import _unknown_fields
from worker.cli._output import Output, write_error
from worker.messages import masking
from worker.providers.results import Page, Result, Rows

# Attributes that are not fields of the answer.
_INTERNAL = frozenset({"extra", "code_is_number"})


def listed(method: Callable[..., object]) -> type[Result] | None:
    """The item type of the method's answer if it is a list or a page, else None."""
    kind = get_type_hints(method)["return"]
    if get_origin(kind) not in {Rows, Page}:
        return None
    item: type[Result] = get_args(kind)[0]
    return item


def show(answer: Answer, item: type[Result] | None, output: Output) -> None:
    """Write an answer, or a list of ``item``, in the output's format.

    What it lacks goes to standard error: rows that cannot be read, the page's place in the list.
    """
    # Mask here by the field's type, not by its name: a service has a field ``code`` too.
    masked = replace(output, reveal=True)
    if isinstance(answer, Result) and not isinstance(answer, Page):
        masked.record(_row(answer, output))
    else:
        many = answer.items if isinstance(answer, Page) else answer
        rows = [_row(each, output) for each in many]
        keys = [field.name for field in _shown(item or Result)]
        filled = [key for key in keys if any(row[key] is not None for row in rows)]
        if output.json:
            masked.array(rows)
        else:
            masked.rows(keys, filled or keys, rows)
    for note in _notes(answer):
        write_error(note)


def _notes(answer: Answer) -> Iterator[str]:
    if isinstance(answer, Page):
        place = {
            "page": answer.page,
            "per page": answer.per_page,
            "total": answer.total,
            "total pages": answer.total_pages,
            "next": answer.cursor,
            "more": None if answer.has_more is None else "yes" if answer.has_more else "no",
        }
        line = ", ".join(f"{name}: {value}" for name, value in place.items() if value is not None)
        if line:
            yield line
    skipped = sum(rows.skipped for rows in _lists(answer))
    if skipped:
        many = "row could not be read and is" if skipped == 1 else "rows could not be read and are"
        yield f"{skipped} {many} left out"
    if isinstance(answer, Result) and getattr(answer, "code_is_number", False):
        yield "the code came as a number: zeros may be missing at its beginning"


def _lists(answer: Answer) -> Iterator[Rows[Any]]:
    values = (
        [getattr(answer, field.name) for field in fields(answer)]
        if isinstance(answer, Result)
        else [answer]
    )
    yield from (value for value in values if isinstance(value, Rows))


def _row(result: Result, output: Output) -> dict[str, Any]:
    shown = _shown(result)
    row = {field.name: _value(field, getattr(result, field.name), output) for field in shown}
    if not output.json:
        return row
    if getattr(result, "code_is_number", False):
        row["code_is_number"] = True
    secrets = [str(getattr(result, field.name) or "") for field in shown if not field.repr]
    unknown = _unknown_fields.masked(result.extra, secrets, reveal=output.reveal)
    return row | {name: value for name, value in unknown.items() if row.get(name) is None}


def _value(field: Field[Any], value: object, output: Output) -> Any:
    if isinstance(value, Result):
        return _row(value, output)
    if isinstance(value, tuple):
        return [_row(each, output) for each in value]
    if isinstance(value, Decimal):
        return format(value, "f")
    if isinstance(value, datetime) and value.microsecond % 1000 and (output.json or output.csv):
        return f"{value.astimezone(UTC):%Y-%m-%dT%H:%M:%S.%fZ}"
    return value if field.repr or output.reveal else masking.mask(field.name, value)


def _shown(result: Result | type[Result]) -> list[Field[Any]]:
    return [field for field in fields(result) if field.name not in _INTERNAL]
