"""Conditions on several columns at once: whether together they hold one of some rows of values.

SQLite does not look into an index for a list of rows, and goes through the whole table instead.
It does for lists of single values: so the columns that lead an index are compared with theirs as
well, which changes nothing about what is found.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from sqlalchemy import ColumnElement, and_, bindparam, tuple_

_LEADING = 2


class OneOf:
    """``columns`` hold one of the rows that a statement is executed with.

    Made once, with the statement that ``condition`` is part of; ``name`` is its parameters'.
    """

    def __init__(self, name: str, *columns: ColumnElement[Any]) -> None:
        self._name = name
        rows = tuple_(*columns, types=[column.type for column in columns])
        self._lists = [f"{name}_{number}" for number in range(min(_LEADING, len(columns)))]
        self.condition: ColumnElement[bool] = and_(
            rows.in_(bindparam(name, expanding=True)),
            *(
                column.in_(bindparam(list_, expanding=True, type_=column.type))
                for column, list_ in zip(columns, self._lists, strict=False)
            ),
        )

    def bound(self, rows: Iterable[tuple[Any, ...]]) -> dict[str, list[Any]]:
        """The statement's parameters for these rows."""
        found = list(rows)
        lists = {
            list_: sorted({row[number] for row in found})
            for number, list_ in enumerate(self._lists)
        }
        return {self._name: found, **lists}
