"""How a provider's typed answer looks; what stays out of its repr is masked unless revealed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import Field, dataclass, fields
from decimal import Decimal
from typing import Any, get_args, get_origin, get_type_hints

from worker.cli._output import Output, complain, mask
from worker.paid_calls import Answer
from worker.providers.results import Page, Result


def listed(method: Callable[..., object]) -> type[Result] | None:
    """What the items of the method's answer are, if that is a list or a page of one."""
    kind = get_type_hints(method)["return"]
    if get_origin(kind) not in {tuple, Page}:
        return None
    item: type[Result] = get_args(kind)[0]
    return item


@dataclass(frozen=True, slots=True)
class Form:
    """In which form an answer is wanted, and whether secrets may be in it.

    Raises:
        typer.BadParameter: two forms at once.
    """

    json: bool = False
    csv: bool = False
    reveal: bool = False

    def __post_init__(self) -> None:
        self._output()  # what cannot be meant is refused before anything is asked

    def show(self, answer: Answer, item: type[Result] | None) -> None:
        """Write an answer, a list of ``item`` if it is one, to standard output."""
        if isinstance(answer, Result) and not isinstance(answer, Page):
            self._output().record(self._row(answer))
            return
        many: tuple[Result, ...] = answer.items if isinstance(answer, Page) else answer
        rows = [self._row(each) for each in many]
        keys = [field.name for field in _shown(item or Result)]
        told = [key for key in keys if any(row[key] is not None for row in rows)]
        self._output().rows(keys, told or keys, rows)
        if isinstance(answer, Page) and not (self.json or self.csv):
            place = {"page": answer.page, "in all": answer.total}
            said = ", ".join(f"{name}: {n}" for name, n in place.items() if n is not None)
            if said:
                complain(said)

    def _output(self) -> Output:
        # Masked already: the answer's type knows better than a name what is secret. A service
        # has a code as well.
        return Output(self.json, self.csv, reveal=True)

    def _row(self, result: Result) -> dict[str, Any]:
        return {
            field.name: self._value(field, getattr(result, field.name)) for field in _shown(result)
        }

    def _value(self, field: Field[Any], value: object) -> Any:
        if isinstance(value, Result):
            return self._row(value)
        if isinstance(value, tuple):
            return [self._row(each) for each in value]
        if isinstance(value, Decimal):
            return format(value, "f")
        return value if field.repr or self.reveal else mask(field.name, value)


def _shown(result: Result | type[Result]) -> list[Field[Any]]:
    return [field for field in fields(result) if field.name != "raw"]
