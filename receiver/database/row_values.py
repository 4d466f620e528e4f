"""Conditions on several columns at once: together they equal one of several rows of values.

SQLite uses no index for a comparison with a list of rows, and scans the whole table. It does use
one for lists of single values, so the condition also compares the leading columns of the index,
which does not change the result.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from sqlalchemy import ColumnElement, and_, bindparam, tuple_

_LEADING_COLUMNS = 2


class OneOf:
    """A condition: ``columns`` equal one of the rows that the statement is executed with.

    Create it once, with the statement that contains ``condition``. ``name`` is the prefix of the
    statement's parameters.
    """

    def __init__(self, name: str, *columns: ColumnElement[Any]) -> None:
        self._name = name
        rows = tuple_(*columns, types=[column.type for column in columns])
        leading = min(_LEADING_COLUMNS, len(columns))
        self._leading = [f"{name}_{number}" for number in range(leading)]
        self.condition: ColumnElement[bool] = and_(
            rows.in_(bindparam(name, expanding=True)),
            *(
                column.in_(bindparam(parameter, expanding=True, type_=column.type))
                for column, parameter in zip(columns, self._leading, strict=False)
            ),
        )

    def bound(self, rows: Iterable[tuple[Any, ...]]) -> dict[str, list[Any]]:
        """The statement's parameters for these rows."""
        values = list(rows)
        leading = {
            parameter: sorted({row[number] for row in values})
            for number, parameter in enumerate(self._leading)
        }
        return {self._name: values, **leading}
